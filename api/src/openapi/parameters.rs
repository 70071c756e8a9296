//! Parameters that several operations have.

use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::{Object, Required, Type};

use crate::waiting::prefer::MAX_WAIT;

/// `Prefer: wait=n`.
pub(crate) struct PreferWait;

impl utoipa::IntoParams for PreferWait {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let description = format!(
            "`wait=n` (RFC 7240): answer when the job has ended, or after n seconds, at most {}. Other preferences \
             are ignored.",
            MAX_WAIT.as_secs()
        );
        let parameter = ParameterBuilder::new()
            .name("Prefer")
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(description))
            .schema(Some(Object::with_type(Type::String)))
            .example(Some("wait=15".into()));
        vec![parameter.build()]
    }
}
