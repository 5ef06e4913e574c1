//! Extractors whose refusals are [`Fault`]s, so that every answer of the API has one shape.

use std::time::Duration;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Json, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::fault::{Fault, Kind};

/// The largest body that is read. A membership change of 31 approvals has some 60 KB as JSON.
pub const BODY_MAX: usize = 128 * 1024;

/// How long a body may take to arrive.
const BODY_WAIT: Duration = Duration::from_secs(10);

/// A JSON body.
pub struct Body<T>(pub T);

/// Parameters after the `?`.
pub struct Params<T>(pub T);

/// The variable part of the path.
pub struct Named(pub String);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, state: &S) -> Result<Self, Fault> {
        match tokio::time::timeout(BODY_WAIT, Json::from_request(request, state)).await {
            Ok(Ok(Json(body))) => Ok(Self(body)),
            Ok(Err(refused)) => Err(refused_body(&refused)),
            Err(_) => Err(Fault::new(Kind::Timeout, format!("the body took longer than {} s", BODY_WAIT.as_secs()))),
        }
    }
}

fn refused_body(refused: &JsonRejection) -> Fault {
    match refused.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Fault::new(Kind::TooLarge, format!("the body is larger than {BODY_MAX} bytes"))
        }
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Fault::new(Kind::MediaType, "the body is not declared as JSON")
            .remedy("send the header `content-type: application/json`"),
        _ => Fault::new(Kind::Invalid, refused.body_text()).remedy("GET /v1/openapi.json describes every body"),
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Fault> {
        let refused = |refused: QueryRejection| Fault::new(Kind::Invalid, refused.body_text());
        Query::from_request_parts(parts, state).await.map(|Query(params)| Self(params)).map_err(refused)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Fault> {
        let refused = |refused: PathRejection| Fault::new(Kind::Invalid, refused.body_text());
        Path::from_request_parts(parts, state).await.map(|Path(name)| Self(name)).map_err(refused)
    }
}
