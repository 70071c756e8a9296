//! The api as a Lambda function behind API Gateway, both in the emulator, from `infra/gateway.yaml` and the zip of
//! `make up GATEWAY=1`.

use std::path::Path;

use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::processes::{binary, ready};
use crate::resources::{Clients, deploy, endpoint, unhurried};

const TEMPLATE: &str = include_str!("../../../infra/gateway.yaml");

/// The bucket of the zip, for all tests of this process.
const BUCKET: &str = "longhand-code";

/// The key of the zip, which is uploaded once.
static KEY: OnceCell<String> = OnceCell::const_new();

/// How the api runs in a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiMode {
    Server,
    /// A Lambda function behind API Gateway.
    Gateway,
}

/// Deploys a gateway with a function for these resources. Returns its URL.
pub async fn start(aws: &Clients) -> String {
    let key = KEY.get_or_init(|| upload(aws)).await;
    let resources = &aws.resources;
    let architecture = if cfg!(target_arch = "aarch64") { "ARM64" } else { "X86_64" };
    let parameters = [
        ("Name", resources.name.as_str()),
        ("CodeBucket", BUCKET),
        ("CodeKey", key),
        ("CpuArchitecture", architecture),
        ("TableName", &resources.table),
        ("TableArn", &resources.table_arn),
        ("QueueUrl", &resources.queue_url),
        ("QueueArn", &resources.queue_arn),
        ("BucketName", &resources.bucket),
        ("BucketArn", &resources.bucket_arn),
        ("Auth", "none"),
    ];
    let outputs = deploy(&format!("{}-gateway", resources.name), TEMPLATE, &parameters).await;
    let url = format!("{}/_aws/execute-api/{}/$default", endpoint(), outputs["ApiId"]);
    ready(&format!("{url}/readyz")).await;
    url
}

async fn upload(aws: &Clients) -> String {
    let program = binary("longhand-api");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway.py");
    let folder = program.with_file_name("function");
    let output = Command::new("python3").arg(script).arg(&program).arg(folder).output().await;
    let output = output.expect("python3 can be run");
    assert!(output.status.success(), "no zip: {output:?}");
    let stdout = String::from_utf8(output.stdout).expect("a path");
    let zip = Path::new(stdout.lines().last().expect("a path"));
    let key = zip.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    let bytes = tokio::fs::read(zip).await.expect("the zip");
    aws.s3().create_bucket().bucket(BUCKET).send().await.expect("a bucket");
    let put = aws.s3().put_object().bucket(BUCKET).key(&key).body(bytes.into());
    put.customize().config_override(unhurried()).send().await.expect("the zip is in the bucket");
    key
}
