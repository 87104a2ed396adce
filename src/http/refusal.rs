//! Every answer that is no success: its status, and its error as JSON.

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};
use tumen_actors::names::NameFailure;
use tumen_actors::node::ConfigFailure;
use tumen_core::cluster::configuration::{Invalid, Refused as NotWritten};
use tumen_core::cluster::coordinator::AskError;
use tumen_core::names::directory::Refused;
use tumen_core::partitions::request::Failure;
use tumen_core::partitions::routing::RouteError;

use super::shapes::{self, ErrorBody};
use crate::error::Error;

/// An answer that is no success.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    body: ErrorBody,
}

impl Refusal {
    /// One after which nothing is changed.
    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self { status, body: ErrorBody::unchanged(code, message) }
    }

    /// The same, where another part of the request has changed something.
    pub(super) fn after_part(mut self) -> Self {
        self.body.error.changed = Some(true);
        self
    }

    /// What was asked for does not exist.
    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// The request makes no sense.
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let error_json = shapes::Error {
            code: error.code().to_owned(),
            message: error.to_string(),
            changed: error.changed(),
        };
        Self { status: status(&error), body: ErrorBody { error: error_json } }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

fn status(error: &Error) -> StatusCode {
    match error {
        Error::Call(failure)
        | Error::Name(NameFailure::Call(failure))
        | Error::ClusterConfig(ConfigFailure::Call(failure)) => match failure {
            Failure::Stale { .. }
            | Failure::NotReady
            | Failure::NoQuorum
            | Failure::Fenced { .. }
            | Failure::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            // It is the key that leads nowhere.
            Failure::NoPartition(_) => StatusCode::BAD_REQUEST,
            Failure::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            Failure::Rejected(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Failure::WorkerFailed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        },
        Error::ClusterConfig(ConfigFailure::Invalid(Invalid::ValueLen(_))) => StatusCode::PAYLOAD_TOO_LARGE,
        Error::ClusterConfig(ConfigFailure::Refused(NotWritten::Full)) => StatusCode::INSUFFICIENT_STORAGE,
        Error::ClusterConfig(ConfigFailure::Refused(_)) => StatusCode::PRECONDITION_FAILED,
        Error::ClusterConfig(ConfigFailure::NotVisible(_)) => StatusCode::GATEWAY_TIMEOUT,
        Error::Topic(_)
        | Error::ClusterConfig(ConfigFailure::Invalid(_))
        | Error::Key { .. }
        | Error::BadName(_)
        | Error::Route(RouteError::Key(_) | RouteError::KeyTooLong(_)) => StatusCode::BAD_REQUEST,
        Error::NotFound(_)
        | Error::Refused(AskError::NoSuchNode(_) | AskError::NoSuchPartition(_))
        | Error::Name(NameFailure::Refused(Refused::NotFound(_)) | NameFailure::NoSuchActor) => {
            StatusCode::NOT_FOUND
        }
        Error::Name(NameFailure::Refused(refused)) => match refused {
            Refused::AlreadyRegistered { .. } | Refused::NotTheHolder { .. } => StatusCode::CONFLICT,
            Refused::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Refused::NotFound(_) => StatusCode::NOT_FOUND,
            Refused::NoMember(_) | Refused::Full | Refused::MetaFull => StatusCode::SERVICE_UNAVAILABLE,
        },
        Error::Name(NameFailure::NoSuchKind { .. } | NameFailure::StartFailed(_) | NameFailure::Ignored)
        | Error::Ignore => StatusCode::UNPROCESSABLE_ENTITY,
        Error::Name(NameFailure::QueueFull(_) | NameFailure::Overtaken(_)) => StatusCode::SERVICE_UNAVAILABLE,
        Error::Name(NameFailure::StartTimeout | NameFailure::NotVisible) => StatusCode::GATEWAY_TIMEOUT,
        Error::Refused(AskError::TooFewNodes { .. } | AskError::NotLost { .. }) => StatusCode::CONFLICT,
        Error::Route(RouteError::NoPlan | RouteError::NoPrimary(_))
        | Error::Refused(
            AskError::NoPlan
            | AskError::NotLeader { .. }
            | AskError::Unserved(_)
            | AskError::Unanswered { .. }
            | AskError::Overtaken(_)
            | AskError::TooManyLosses(_),
        )
        | Error::Lost(_)
        | Error::NoLeader
        | Error::Stopped
        | Error::Ended(_) => StatusCode::SERVICE_UNAVAILABLE,
        Error::NoAnswer => StatusCode::GATEWAY_TIMEOUT,
        Error::Refused(AskError::Strategy { .. } | AskError::PlanTooLong { .. })
        | Error::Config(_)
        | Error::Worker(_)
        | Error::Child(_)
        | Error::Kinds(_)
        | Error::Unmergeable { .. }
        | Error::Bind { .. }
        | Error::Start(_)
        | Error::System { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_fitting_status_and_tells_whether_anything_changed() {
        for (error, status, code, changed) in [
            (Error::Call(Failure::NoQuorum), 503, "no_quorum", Some(false)),
            (Error::Call(Failure::Overloaded), 503, "overloaded", Some(false)),
            (Error::Call(Failure::Fenced { changed: true }), 503, "fenced", None),
            (Error::Call(Failure::Timeout { maybe_applied: true }), 504, "timeout", None),
            (Error::rejected("no"), 422, "rejected", Some(false)),
            (Error::failed("half"), 500, "worker_failed", None),
            (Error::Key { len: 0 }, 400, "bad_key", Some(false)),
            (Error::NotFound("?".into()), 404, "not_found", Some(false)),
            (Error::Route(RouteError::NoPlan), 503, "no_plan", Some(false)),
            (
                Error::Refused(AskError::TooFewNodes { present: 1, wanted: 3 }),
                409,
                "too_few_nodes",
                Some(false),
            ),
            (Error::Lost("partition-3".into()), 503, "lost", Some(false)),
            (Error::NoLeader, 503, "no_leader", Some(false)),
            (Error::NoAnswer, 504, "timeout", None),
            (ConfigFailure::Call(Failure::NoQuorum).into(), 503, "no_quorum", Some(false)),
            (
                ConfigFailure::Refused(NotWritten::Differs { found: None }).into(),
                412,
                "precondition_failed",
                Some(false),
            ),
            (ConfigFailure::Refused(NotWritten::Full).into(), 507, "config_full", Some(false)),
            (ConfigFailure::Invalid(Invalid::ValueLen(1 << 20)).into(), 413, "too_large", Some(false)),
            (NameFailure::StartFailed("no".into()).into(), 422, "start_failed", Some(false)),
            (NameFailure::Ignored.into(), 422, "ignored", Some(false)),
            (NameFailure::StartTimeout.into(), 504, "start_timeout", Some(true)),
            (NameFailure::Refused(Refused::TooLong(1 << 20)).into(), 413, "too_large", Some(false)),
            (tumen_core::names::NameLenError(0).into(), 400, "bad_name", Some(false)),
        ] {
            let refusal = Refusal::from(error);
            assert_eq!(refusal.status.as_u16(), status, "{refusal:?}");
            assert_eq!(
                (&*refusal.body.error.code, refusal.body.error.changed),
                (code, changed),
                "{refusal:?}"
            );
        }
    }
}
