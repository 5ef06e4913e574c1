//! Why a request was not carried out, in words for the person who made it.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What went wrong and what to do about it. The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{error}")]
pub struct Fault {
    /// The sort of failure; decides the HTTP status.
    pub kind: Kind,
    /// What went wrong.
    pub error: String,
    /// What the person who asked can do about it, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// The sort of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The request makes no sense.
    Invalid,
    /// The token is missing or wrong.
    Unauthorized,
    /// There is nothing of that name.
    NotFound,
    /// The route exists, the method does not.
    Method,
    /// The state of the container, offer or mesh forbids it now.
    Conflict,
    /// The body is larger than the API reads.
    TooLarge,
    /// The body is not JSON.
    MediaType,
    /// The site failed at it.
    Failed,
    /// The site is starting, stopping or overloaded.
    Unavailable,
    /// The site did not answer in time.
    Timeout,
}

impl Kind {
    /// The HTTP status that carries it.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Invalid => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict => StatusCode::CONFLICT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

impl Fault {
    /// A failure without a remedy.
    pub fn new(kind: Kind, error: impl Into<String>) -> Self {
        Self { kind, error: error.into(), remedy: None }
    }

    /// A failure of the site itself: the error and all its causes in one line.
    #[must_use]
    pub fn failed(error: &dyn std::error::Error) -> Self {
        Self::new(Kind::Failed, chain(error))
    }

    /// With what to do about it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// An error followed by its causes: `restore container: open pages-1.img: no space left on device`.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        // Transparent wrappers repeat their cause's words.
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        (self.kind.status(), Json(self)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("restore container")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_failure_keeps_its_causes() {
        let fault = Fault::failed(&Outer(std::io::Error::other("no space left")));
        assert_eq!(fault.error, "restore container: no space left");
        assert_eq!(fault.kind.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn no_remedy_leaves_no_trace_in_the_answer() {
        let text = serde_json::to_string(&Fault::new(Kind::NotFound, "no such container")).unwrap();
        assert_eq!(text, r#"{"kind":"not-found","error":"no such container"}"#);
    }
}
