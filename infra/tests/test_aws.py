"""What would fail or cost on AWS, judged by templates and environment files alone. Nothing is started."""

from __future__ import annotations

import ipaddress
import re
import sys
import unittest
from unittest.mock import MagicMock

from support import INFRA, ROOT

sys.path.insert(0, str(INFRA))

# By the paths that are made above.
# isort: split
import capacity  # noqa: E402
import stacks  # noqa: E402
from cloud import MATH, PARTS  # noqa: E402
from environment import ORDER, Environment, Template, ip, parse  # noqa: E402
from unsupported import effective, references  # noqa: E402

TEMPLATES = {part: Template.read(INFRA / f"{part}.yaml") for part in ORDER}
DOCUMENTS = {part.name: part.template for part in PARTS}
# Settings of docs/configuration.md that no parameter sets, and why. For the function besides: FUNCTION.
FIXED = {
    "LONGHAND_UPLOAD_ENDPOINT": "the api reaches S3 by the address that clients use",
    "LONGHAND_API_KEYS_FILE": "LONGHAND_API_KEYS has them, out of the secret",
    "LONGHAND_AUDIO_ROOT": "tasks share no folder",
    "LONGHAND_DRAIN_SECONDS": "goes with the task's StopTimeout",
    "LONGHAND_HEALTH_LISTEN": "asked inside of the container alone",
    "LONGHAND_JWT_SECRET": "issuers have public keys; a shared secret would be one more to keep",
    "LONGHAND_LISTEN": "goes with the target group",
    "LONGHAND_LOG_FORMAT": "metric filters read JSON",
    "LONGHAND_POLL_SECONDS": "the longest there is costs least",
    "LONGHAND_SWEEP_SECONDS": "docs/capacity.md is computed for it",
    "LONGHAND_WORKER_NAME": "by default it tells tasks apart",
}
FUNCTION = {
    "LONGHAND_ANSWERS_MB": "an environment has one call in hand",
    "LONGHAND_MAX_CONNECTIONS": "an environment has one call in hand",
    "LONGHAND_MAX_WAITING": "an environment has one call in hand",
    "LONGHAND_READS_AT_ONCE": "an environment has one call in hand",
    "LONGHAND_STREAM_MINUTES": "there are no streams through API Gateway",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "it stands still between calls, and is outside of the network of a collector",
    "REDIS_URL": "it is outside of the cache's network",
}
# A file without faults, in which each test changes what it is about.
GOOD = {
    "AWS_REGION": "eu-central-1",
    "INTERNET_EGRESS": "none",
    "ASR_BASE_URL": "http://asr.internal:8000",
    "SECRET_ARN": "arn:aws:secretsmanager:eu-central-1:000000000000:secret:longhand-AbCdEf",
    "AUTH": "none",
    "GATEWAY_TARGET": "none",
    "CLIENT_CIDR": "10.0.0.0/8",
}
JWT = {"AUTH": "jwt", "JWT_ISSUER": "https://id.example.com/", "JWT_AUDIENCE": "a"}
JWT["JWT_JWKS_URL"] = "https://id.example.com/keys"


def environment(**changed: str) -> Environment:
    return Environment("test", {key: value for key, value in {**GOOD, **changed}.items() if value}, TEMPLATES)


def files() -> dict[str, Environment]:
    return {
        file.stem: Environment(file.stem, parse(file.read_text())[0], TEMPLATES)
        for file in (INFRA / "env").glob("*.env")
    }


def resolved(part: str, found: Environment, **outputs: str) -> dict[str, dict]:
    """The resources of `part` as `found` deploys it, with each reference to a parameter replaced by its value."""
    template = DOCUMENTS[part]
    given = found.parameters(part, {"VpcCidr": "10.60.0.0/16", **outputs})
    values = {name: str(about.get("Default", "")) for name, about in template["Parameters"].items()} | given

    def value(of: object) -> object:
        if isinstance(of, dict):
            if of.keys() == {"Ref"}:
                return values.get(of["Ref"], of)
            return {key: inner for key, one in of.items() if (inner := value(one)) != {"Ref": "AWS::NoValue"}}
        if isinstance(of, list):
            return [inner for one in of if (inner := value(one)) != {"Ref": "AWS::NoValue"}]
        return of

    return value(effective(template, values)[0])


class Files(unittest.TestCase):
    def assert_faults(self, expected: str | None, **changed: str) -> None:
        faults = environment(**changed).faults()
        if expected is None:
            self.assertEqual(faults, [])
        else:
            self.assertTrue(any(expected in fault for fault in faults), faults)

    def test_a_public_issuer_without_a_way_out_is_refused(self):
        self.assert_faults(None)
        self.assert_faults("JWT_JWKS_URL names id.example.com on the internet", **JWT)
        self.assert_faults(None, **JWT, PRIVATE_HOSTS="*.example.com")
        self.assert_faults(None, **JWT, INTERNET_EGRESS="nat")
        self.assert_faults(None, **JWT, GATEWAY_TARGET="lambda")
        self.assert_faults("ASR_BASE_URL names asr.example.com on", ASR_BASE_URL="https://asr.example.com")
        self.assert_faults("AUDIO_HOSTS names files.internal on", AUDIO_HOSTS="files.internal")

    def test_rules_cover_host_and_port_of_every_url(self):
        cases = {name: found for name, found in files().items()}
        for name, changed in {
            "in the VPC": {},
            "peered, by address": {"ASR_BASE_URL": "http://10.20.1.2:8000"},
            "peered, by name": {"ASR_CIDR": "10.20.0.0/16"},
            "on the internet": {"ASR_BASE_URL": "https://asr.example.com:8443"},
            "on the internet at 443": {"ASR_BASE_URL": "https://asr.example.com"},
            "web hosts": {"AUDIO_HOSTS": "a.example.com:8443,*.b.example.com", "CALLBACK_HOSTS": "c.example.com:9443"},
            "an issuer": {**JWT, "JWT_JWKS_URL": "https://id.example.com:8443/keys"},
            "a cache": {"REDIS_URL": "rediss://cache.example.com:6380"},
            "traces": {"OTLP_ENDPOINT": "http://collector.internal:4318"},
            "the same port twice": {"REDIS_URL": "redis://redis.internal:8000"},
            "thrice": {"REDIS_URL": "redis://redis.internal:8000", "OTLP_ENDPOINT": "http://collector.internal:8000"},
            "but one": {"REDIS_URL": "redis://redis.internal", "OTLP_ENDPOINT": "http://collector.internal:8000"},
        }.items():
            cases[name] = environment(INTERNET_EGRESS="nat", **changed)
        for name, found in cases.items():
            self.assertEqual(found.relations(), [], name)
            groups = resolved("service", found)
            for call in found.calls():
                programs = {"ASR_BASE_URL": ["Worker"], "JWT_JWKS_URL": ["Api"]}.get(call.key, ["Worker"])
                for program in programs + (["Api"] if call.key in ("REDIS_URL", "OTLP_ENDPOINT") else []):
                    rules = groups[f"{program}SecurityGroup"]["Properties"]["SecurityGroupEgress"]
                    described = [(one["CidrIp"], str(one["FromPort"]), str(one["ToPort"])) for one in rules]
                    with self.subTest(name, call=call, program=program):
                        self.assertEqual(len(described), len(set(described)), "EC2 refuses the same rule twice")
                        self.assertTrue(any(self.covers(found, rule, call) for rule in described), described)

    def covers(self, found: Environment, rule: tuple[str, str, str], call) -> bool:
        block, first, last = rule
        inside = ip(call.host) in ipaddress.ip_network(block) if ip(call.host) else found.private(call.host)
        return int(first) <= call.port <= int(last) and (block == "0.0.0.0/0" or inside)

    def test_what_contradicts_a_url_is_refused(self):
        self.assert_faults("ASR_PORT is 9, and the port in ASR_BASE_URL is 8000", ASR_PORT="9")
        peered = {"ASR_BASE_URL": "http://10.20.1.2:8000"}
        self.assert_faults("ASR_CIDR is 10.30.0.0/16, which does not include", ASR_CIDR="10.30.0.0/16", **peered)
        self.assert_faults("ASR_BASE_URL is 'asr.internal:8000', which is not a URL", ASR_BASE_URL="asr.internal:8000")
        self.assertIn("PrivateRouteTableId", DOCUMENTS["network"]["Outputs"])

    def test_blanks_in_lists_that_aws_splits_are_refused(self):
        self.assert_faults("CORS_ORIGINS has blanks", CORS_ORIGINS="https://a.example, https://b.example")
        self.assert_faults(None, CORS_ORIGINS="https://a.example,https://b.example")

    def test_a_load_balancer_that_accepts_nobody_is_refused(self):
        self.assert_faults("CLIENT_CIDR is missing", CLIENT_CIDR="")
        self.assert_faults(None, CLIENT_CIDR="", GATEWAY_TARGET="vpclink")

    def test_a_public_load_balancer_needs_public_subnets(self):
        public = {"LOAD_BALANCER_SCHEME": "internet-facing", "CERTIFICATE_ARN": "arn:aws:acm:x"}
        own = {"VPC_ID": "vpc-1", "PRIVATE_SUBNET_IDS": "subnet-1,subnet-2", "VPC_CIDR": "10.0.0.0/16"}
        self.assert_faults("there are no public subnets: set INTERNET_EGRESS=nat", **public)
        self.assert_faults("there are no public subnets: set PUBLIC_SUBNET_IDS", INTERNET_EGRESS="nat", **public, **own)
        self.assert_faults("CERTIFICATE_ARN is missing", INTERNET_EGRESS="nat", **{**public, "CERTIFICATE_ARN": ""})
        self.assert_faults(None, INTERNET_EGRESS="nat", **public)
        self.assert_faults(None, PUBLIC_SUBNET_IDS="subnet-3,subnet-4", **public, **own)

    def test_a_function_in_an_account_with_few_environments_is_refused(self):
        found = environment(GATEWAY_TARGET="lambda")
        self.assertIn("MIN_LAMBDA_CONCURRENCY=10", found.too_few_environments(10)[0])
        self.assertEqual(found.too_few_environments(1000), [])
        self.assertEqual(environment(GATEWAY_TARGET="lambda", MIN_LAMBDA_CONCURRENCY="5").too_few_environments(10), [])
        self.assertEqual(environment().too_few_environments(10), [])
        self.assert_faults("MIN_LAMBDA_CONCURRENCY is 'x'", MIN_LAMBDA_CONCURRENCY="x")

    def test_a_fault_says_what_a_value_has_to_be(self):
        for key, value, wanted in (
            ("AWS_ACCOUNT", "12", "the 12 digits of an account"),
            ("MIN_LAMBDA_CONCURRENCY", "x", "a whole number"),
            ("CLOUDFORMATION_ROLE_ARN", "x", "the ARN of a role"),
            ("AWS_REGION", "EU", "a region, such as eu-central-1"),
        ):
            self.assert_faults(f"{key} is '{value}'; it has to be {wanted}", **{key: value})


class Gateway(unittest.TestCase):
    def test_a_gateway_lets_go_of_the_load_balancer_before_that_goes(self):
        order = environment(GATEWAY_TARGET="lambda").order("vpclink")
        self.assertLess(order.index("gateway"), order.index("service"))
        for wanted, present in (("lambda", ""), ("lambda", "lambda"), ("vpclink", "lambda"), ("vpclink", "vpclink")):
            order = environment(GATEWAY_TARGET=wanted).order(present)
            self.assertLess(order.index("service"), order.index("gateway"))
            self.assertEqual(order[-1], "alarms")

    def test_a_function_leaves_no_load_balancer_behind(self):
        made = resolved("service", environment(GATEWAY_TARGET="lambda"))
        types = {one["Type"] for name, one in made.items() if name != "ApiRole"}
        self.assertFalse([one for one in types if "ElasticLoadBalancing" in one])
        self.assertFalse(made.keys() & {"ApiService", "ApiTask", "ApiTarget"})
        # Nothing that is made refers to what is not.
        everything = DOCUMENTS["service"]["Resources"].keys()
        for name, one in made.items():
            self.assertEqual(references(one) & everything - made.keys(), set(), name)
        alarms = resolved("alarms", environment(GATEWAY_TARGET="lambda"), FunctionName="f", FunctionLogGroupName="g")
        self.assertNotIn("AWS/ApplicationELB", str({k: v for k, v in alarms.items() if k != "Dashboard"}))
        self.assertNotIn("TooFewApis", alarms)

    def test_the_gateways_own_answers_may_be_read_by_pages(self):
        api = effective(DOCUMENTS["gateway"], {"CorsOrigins": "https://a.example"})[0]["Api"]
        allowed = api["Properties"]["CorsConfiguration"]
        rust = (ROOT / "api/src/cors.rs").read_text()

        def names(call: str) -> set[str]:
            listed = re.search(rf"\.{call}\(\[(.*?)\]\)", rust, re.DOTALL)[1]
            found = re.findall(r'header\("([\w-]+)"\)', listed) + re.findall(r"\b([A-Z_]{2,})\b", listed)
            return {name.lower().replace("_", "-") for name in found}

        self.assertEqual({name.lower() for name in allowed["AllowMethods"]}, names("allow_methods"))
        self.assertIn("AllowHeaders::mirror_request()", rust)
        self.assertEqual(allowed["AllowHeaders"], ["authorization", "*"])
        self.assertEqual(set(allowed["ExposeHeaders"]), names("expose_headers"))
        self.assertNotIn("CorsConfiguration", resolved("gateway", environment())["Api"]["Properties"])

    def test_browsers_ask_without_a_token_whether_they_may_ask(self):
        made = effective(DOCUMENTS["gateway"], {"JwtIssuer": "https://id.example.com/"})[0]
        asked = {one["Properties"]["RouteKey"]: one["Properties"] for one in made.values() if "RouteKey" in str(one)}
        self.assertEqual(asked["$default"]["AuthorizationType"], "JWT")
        self.assertEqual(asked["OPTIONS /{proxy+}"]["AuthorizationType"], "NONE")


class Domain(unittest.TestCase):
    def test_a_name_of_ones_own_needs_its_certificate_and_gets_its_record(self):
        gateway = environment(GATEWAY_TARGET="lambda", DOMAIN_NAME="a.example.com")
        self.assertIn("DOMAIN_CERTIFICATE_ARN is missing", str(gateway.faults()))
        self.assertIn("point its DNS record", str(gateway.warnings()))
        self.assertIn("DOMAIN_NAME needs a gateway", str(environment(DOMAIN_NAME="a.example.com").faults()))
        gateway.values |= {"DOMAIN_CERTIFICATE_ARN": "arn", "HOSTED_ZONE_ID": "Z1"}
        self.assertEqual(gateway.faults(), [])
        made = resolved("gateway", gateway)
        self.assertEqual(made["DomainRecord"]["Properties"]["Name"], "a.example.com")
        self.assertEqual(made["DomainMapping"]["Properties"]["ApiId"], {"Ref": "Api"})
        self.assertNotIn("Domain", resolved("gateway", environment()))

    def test_plain_http_at_a_load_balancer_leads_to_https(self):
        public = {
            "INTERNET_EGRESS": "nat",
            "LOAD_BALANCER_SCHEME": "internet-facing",
            "CERTIFICATE_ARN": "arn",
            "LISTENER_SERVER_NAME": "a.example.com",
            "HOSTED_ZONE_ID": "Z1",
            "CLIENT_CIDR": "0.0.0.0/0",
        }
        made = resolved("service", environment(**public))
        [action] = made["RedirectListener"]["Properties"]["DefaultActions"]
        self.assertEqual((action["Type"], action["RedirectConfig"]["Protocol"]), ("redirect", "HTTPS"))
        ingress = made["LoadBalancerSecurityGroup"]["Properties"]["SecurityGroupIngress"]
        self.assertEqual(sorted(one["FromPort"] for one in ingress), [80, 443])
        self.assertEqual(made["BalancerRecord"]["Properties"]["Name"], "a.example.com")
        # Nothing of it inside of a network, by HTTP.
        self.assertFalse(resolved("service", environment()).keys() & {"RedirectListener", "BalancerRecord"})


class Bounds(unittest.TestCase):
    def test_the_production_file_bounds_what_a_fault_may_cost(self):
        values = files()["production"].values
        worst = capacity.worst(1000)
        self.assertGreaterEqual(int(values["MAX_WRITE_UNITS"]), 2 * worst.jobs * capacity.WRITES)
        self.assertGreaterEqual(int(values["MAX_READ_UNITS"]), 2 * worst.table_reads)
        table = resolved("data", files()["production"])["JobsTable"]["Properties"]
        bounded = [table, *table["GlobalSecondaryIndexes"]]
        self.assertEqual({one["OnDemandThroughput"]["MaxWriteRequestUnits"] for one in bounded}, {"4000"})
        self.assertNotIn("OnDemandThroughput", str(resolved("data", environment())["JobsTable"]))
        alarms = resolved("alarms", files()["production"])
        self.assertEqual(alarms["Budget"]["Properties"]["Budget"]["BudgetLimit"]["Amount"], values["MONTHLY_BUDGET"])
        self.assertIn("budgets.amazonaws.com", str(alarms["TopicPolicy"]))
        self.assertNotIn("Budget", resolved("alarms", environment()))


class Service(unittest.TestCase):
    def test_every_setting_is_a_parameter_or_has_a_reason_not_to_be(self):
        page = (ROOT / "docs" / "configuration.md").read_text()
        rows = re.findall(r"^- `(\w+)` \(([\w ]+),", page, re.MULTILINE)
        documented = [{name for name, readers in rows if program in readers} for program in ("api", "worker")]
        resources, _ = effective(DOCUMENTS["service"], {"Auth": "apikey", "WebhookSecretPrevious": "true"})
        set_by_parameter = []
        for task in ("ApiTask", "WorkerTask"):
            [container] = resources[task]["Properties"]["ContainerDefinitions"]
            given = {one["Name"] for one in container["Environment"] if not isinstance(one["Value"], str)}
            set_by_parameter.append(given | {one["Name"] for one in container["Secrets"] if "Name" in one})
        given = {"Auth": "apikey", "TicketSecretArn": "arn"}
        function = effective(DOCUMENTS["gateway"], given)[0]["Function"]["Properties"]
        set_by_parameter.append({k for k, v in function["Environment"]["Variables"].items() if not isinstance(v, str)})
        for known, given, fixed in zip(
            [*documented, documented[0]], set_by_parameter, [FIXED, FIXED, FIXED | FUNCTION], strict=True
        ):
            self.assertEqual(known - given - fixed.keys(), {"LONGHAND_AUTH_NONE"} & known, "it goes with Auth")
            self.assertEqual(given & fixed.keys(), set())

    def test_workers_are_updated_before_the_api(self):
        self.assertIn("WorkerService", DOCUMENTS["service"]["Resources"]["ApiService"]["DependsOn"])

    def test_an_outage_of_the_model_adds_no_workers(self):
        policy = DOCUMENTS["service"]["Resources"]["WorkerScaling"]["Properties"]
        tracked = policy["TargetTrackingScalingPolicyConfiguration"]
        metrics = {one["Id"]: one for one in tracked["CustomizedMetricSpecification"]["Metrics"]}
        expression = metrics["percent"]["Expression"]["Fn::Sub"].replace("${WorkerSlots}", "128")

        def percent(backlog: int, circuit: float | None) -> float:
            return eval(expression, {}, {**MATH, "waiting": backlog, "inHand": 0, "tasks": 9, "circuit": circuit})

        self.assertEqual(percent(100_000, 1), tracked["TargetValue"])
        # One worker's network, or figures that are not there yet, hold nothing.
        for circuit in (0, 1 / 9, None):
            self.assertGreater(percent(1200, circuit), 100)
        circuit = metrics["circuit"]["MetricStat"]["Metric"]["MetricName"]
        made = DOCUMENTS["alarms"]["Resources"]["CircuitStates"]["Properties"]["MetricTransformations"]
        self.assertEqual([one["MetricName"] for one in made], [circuit])

    def test_workers_read_the_buckets_that_paths_may_name(self):
        role = effective(DOCUMENTS["service"], {"AudioBuckets": "a,b"})[0]["WorkerRole"]
        text = str(role["Properties"]["Policies"])
        self.assertIn("ReadAudioElsewhere", text)
        self.assertNotIn("Elsewhere", str(effective(DOCUMENTS["service"], {})[0]["WorkerRole"]))

    def test_the_load_balancer_asks_nothing_that_depends_on_the_table(self):
        """ECS replaces tasks that fail this check. api/tests/it/outages.rs has what the path does."""
        targets = DOCUMENTS["service"]["Resources"]["ApiTargets"]["Properties"]
        self.assertEqual(targets["HealthCheckPath"], "/serving")
        # What an api of 0.1.0 answers there, and the target group is updated before it.
        self.assertIn("404", targets["Matcher"]["HttpCode"].split(","))


class Secrets(unittest.TestCase):
    def test_a_new_version_of_the_secret_changes_what_reads_it(self):
        for part, resource, changed in (
            ("gateway", "Function", {"Auth": "apikey"}),
            ("service", "ApiTask", {"Auth": "apikey"}),
            ("service", "WorkerTask", {}),
        ):
            with self.subTest(resource):
                chosen = effective(DOCUMENTS[part], changed)[0][resource]
                self.assertRegex(str(chosen), r"'Ref': 'SecretVersion'|apiKeys::\$\{SecretVersion\}\}\}")

    def test_a_secret_under_a_key_of_the_customers_can_be_read(self):
        role = effective(DOCUMENTS["service"], {})[0]["ExecutionRole"]["Properties"]["Policies"][0]["PolicyDocument"]
        [decrypt] = [one for one in role["Statement"] if one.get("Action") == "kms:Decrypt"]
        self.assertEqual(decrypt["Condition"]["StringEquals"]["kms:EncryptionContext:SecretARN"], {"Ref": "SecretArn"})


class Deployment(unittest.TestCase):
    def test_cloudformation_takes_each_template_in_a_call(self):
        """Larger ones would have to go through a bucket."""
        for part, template in TEMPLATES.items():
            self.assertLessEqual(len(template.body.encode()), 51_200, part)

    def test_a_template_allows_no_number_that_a_program_rejects(self):
        sources = [path.read_text() for path in ROOT.glob("*/src/**/*.rs")]
        ranges = re.findall(r'"([A-Z_]+)",\s*[^,]+,\s*([\d_]+)\.\.=([\d_]+)', "\n".join(sources))
        bounds = {name: (int(lowest), int(highest)) for name, lowest, highest in ranges}
        text, compared = (INFRA / "service.yaml").read_text(), set()
        for setting, parameter in re.findall(r"Name: (\w+), Value: !Ref (\w+)", text):
            if setting in bounds:
                lowest, highest = bounds[setting]
                asked = TEMPLATES["service"].parameters[parameter]
                with self.subTest(parameter):
                    self.assertGreaterEqual(asked["MinValue"], lowest)
                    # Nobody reaches larger maxima.
                    self.assertLessEqual(asked.get("MaxValue", 100_000), highest)
                compared.add(parameter)
        self.assertLessEqual({"VisibilityTimeoutSeconds", "AsrMaxRetries", "StreamMinutes"}, compared)
        lowest = [TEMPLATES[part].parameters["VisibilityTimeoutSeconds"]["MinValue"] for part in ("data", "service")]
        self.assertEqual(lowest, [3, 3])

    def test_functions_of_rules_have_their_long_form(self):
        """AWS documents no short form of these, and may refuse it."""
        for part in ORDER:
            short = re.findall(r"!(Contains|EachMember\w+|RefAll|ValueOf\w*)", (INFRA / f"{part}.yaml").read_text())
            self.assertEqual(short, [], part)

    def test_cloudformation_acts_as_the_role_that_it_is_given(self):
        session = MagicMock()
        client = session.client.return_value
        client.describe_stacks.return_value = {"Stacks": [{"StackStatus": "UPDATE_COMPLETE", "StackId": "id"}]}
        client.describe_change_set.return_value = {"Status": "CREATE_COMPLETE", "Changes": []}
        made = stacks.Stacks(session, 0, "arn:role")
        made.change_set("name", "", {}, {})
        self.assertEqual(client.create_change_set.call_args.kwargs["RoleARN"], "arn:role")
        client.describe_stacks.side_effect = [
            {"Stacks": [{"StackStatus": "DELETE_COMPLETE", "StackId": "id"}]} for _ in range(2)
        ]
        made.delete("name")
        self.assertEqual(client.delete_stack.call_args.kwargs["RoleARN"], "arn:role")


if __name__ == "__main__":
    unittest.main()
