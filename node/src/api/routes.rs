//! The routes: each turns a request into one [`Ask`] and its answer into JSON.

#![allow(unused_qualifications)] // `utoipa::path` qualifies the parameter types that it is given

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use godwit_ledger::block::Height;
use godwit_protocol::membership::{Membership, Proposal};
use godwit_protocol::{ContainerId, OfferId, RecordId, Signed, SiteId};
use prometheus_client::registry::Registry;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use utoipa::{IntoParams, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::{BODY_MAX, Body, Named, Params};
use super::fault::{Fault, Kind};
use super::find::{Candidate, one};
use super::site::{Ask, Notice, SiteHandle};
use super::view::{
    Appended, BlockView, ContainerView, Deploy, Drain, Draining, HealthView, LogLine, MembersView, Migrate, OfferView,
    Offered, SiteView, StatusView, TimelineView,
};
use super::{raw, stream};

/// The site's loop answers from memory; this long means that it hangs.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// Stopping a container gives it its grace period.
const STOP_WAIT: Duration = Duration::from_secs(60);

/// A deployment may pull an image of gigabytes over a thin link.
const DEPLOY_WAIT: Duration = Duration::from_secs(3600);

/// Blocks in one answer.
pub const BLOCKS_MAX: u16 = 256;

/// What the routes share.
#[derive(Clone)]
pub struct Api {
    /// The site.
    pub site: SiteHandle,
    /// What `/metrics` shows.
    pub metrics: Arc<Registry>,
    /// Ends the streams when the site stops.
    pub stopping: CancellationToken,
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Godwit", description = "The local API of a Godwit site.", license(name = "Apache-2.0")),
    components(schemas(Fault, Notice, LogLine))
)]
struct Document;

type Answer<T> = Result<Json<T>, Fault>;

/// All routes.
pub fn router(api: Api) -> Router {
    Router::from(described())
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(axum::extract::DefaultBodyLimit::max(BODY_MAX))
        .with_state(api)
}

/// The routes with their description, which lists each by construction.
fn described() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(status))
        .routes(routes!(health))
        .routes(routes!(sites))
        .routes(routes!(members, submit_membership))
        .routes(routes!(approve))
        .routes(routes!(containers, deploy))
        .routes(routes!(container, remove))
        .routes(routes!(stop))
        .routes(routes!(logs))
        .routes(routes!(migrate))
        .routes(routes!(drain))
        .routes(routes!(offers))
        .routes(routes!(offer))
        .routes(routes!(timeline))
        .routes(routes!(blocks))
        .routes(routes!(raw_blocks))
        .routes(routes!(proof))
        .routes(routes!(events))
        .routes(routes!(metrics))
        .routes(routes!(openapi))
}

async fn no_such_route() -> Fault {
    Fault::new(Kind::NotFound, "no such route").remedy("GET /v1/openapi.json lists all routes")
}

async fn no_such_method() -> Fault {
    Fault::new(Kind::Method, "this route does not have this method").remedy("GET /v1/openapi.json lists all routes")
}

/// The site at a glance.
#[utoipa::path(get, path = "/v1/status", responses((status = OK, body = StatusView), (status = "default", body = Fault)))]
async fn status(State(api): State<Api>) -> Answer<StatusView> {
    api.site.ask(ANSWER_WAIT, Ask::Status).await.map(Json)
}

/// Whether the site is well: 200, or 503 with what is wrong.
#[utoipa::path(get, path = "/v1/health", responses(
    (status = OK, body = HealthView), (status = SERVICE_UNAVAILABLE, body = HealthView), (status = "default", body = Fault)
))]
async fn health(State(api): State<Api>) -> Result<(StatusCode, Json<HealthView>), Fault> {
    let health = api.site.ask(ANSWER_WAIT, Ask::Health).await?;
    let status = if health.healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, Json(health)))
}

/// All sites of the mesh.
#[utoipa::path(get, path = "/v1/sites", responses((status = OK, body = Vec<SiteView>), (status = "default", body = Fault)))]
async fn sites(State(api): State<Api>) -> Answer<Vec<SiteView>> {
    api.site.ask(ANSWER_WAIT, Ask::Sites).await.map(Json)
}

/// The membership in force.
#[utoipa::path(get, path = "/v1/members", responses((status = OK, body = MembersView), (status = "default", body = Fault)))]
async fn members(State(api): State<Api>) -> Answer<MembersView> {
    api.site.ask(ANSWER_WAIT, Ask::Members).await.map(Json)
}

/// Append a membership change that carries enough approvals.
#[utoipa::path(post, path = "/v1/members", request_body(content = Object, description = "A change with its approvals"),
    responses((status = OK, body = Appended), (status = "default", body = Fault)))]
async fn submit_membership(State(api): State<Api>, Body(change): Body<Membership>) -> Answer<Appended> {
    let record = api.site.ask(ANSWER_WAIT, |reply| Ask::SubmitMembership(Box::new(change), reply)).await?;
    Ok(Json(Appended { record }))
}

/// Sign a membership change as this site.
#[utoipa::path(post, path = "/v1/approvals", request_body(content = Object, description = "A membership epoch and a change"),
    responses((status = OK, body = Object, description = "The signed change"), (status = "default", body = Fault)))]
async fn approve(State(api): State<Api>, Body(proposal): Body<Proposal>) -> Answer<Signed<Proposal>> {
    api.site.ask(ANSWER_WAIT, |reply| Ask::Approve(Box::new(proposal), reply)).await.map(Json)
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Scope {
    /// Only those that this site owns.
    #[serde(default)]
    local: bool,
}

/// The containers of the mesh.
#[utoipa::path(get, path = "/v1/containers", params(Scope),
    responses((status = OK, body = Vec<ContainerView>), (status = "default", body = Fault)))]
async fn containers(State(api): State<Api>, Params(scope): Params<Scope>) -> Answer<Vec<ContainerView>> {
    let mut containers = api.site.ask(ANSWER_WAIT, Ask::Containers).await?;
    containers.retain(|container| container.local || !scope.local);
    Ok(Json(containers))
}

/// Run a container on this site.
#[utoipa::path(post, path = "/v1/containers", request_body = Deploy,
    responses((status = CREATED, body = ContainerView), (status = "default", body = Fault)))]
async fn deploy(
    State(api): State<Api>,
    Body(deploy): Body<Deploy>,
) -> Result<(StatusCode, Json<ContainerView>), Fault> {
    check(&deploy)?;
    let container = api.site.ask(DEPLOY_WAIT, |reply| Ask::Deploy(Box::new(deploy), reply)).await?;
    Ok((StatusCode::CREATED, Json(container)))
}

/// What types cannot say of a deployment.
fn check(deploy: &Deploy) -> Result<(), Fault> {
    let refuse = |error: String| Err(Fault::new(Kind::Invalid, error));
    if deploy.image.as_str().trim().is_empty() {
        return refuse("`image` is empty".to_owned());
    }
    if deploy.cpu_m.0 == 0 || deploy.memory_bytes.0 == 0 {
        return refuse(
            "`cpu_m` and `memory_bytes` must be greater than zero: sites admit containers by them".to_owned(),
        );
    }
    if let Some(port) = deploy.ports.iter().find(|port| port.host == 0 || port.container == 0) {
        return refuse(format!("port {}:{}: ports are 1 to 65535", port.host, port.container));
    }
    match deploy.env.iter().find(|variable| variable.as_str().split_once('=').is_none_or(|(key, _)| key.is_empty())) {
        Some(variable) => refuse(format!("`{variable}` is no environment variable of the form KEY=VALUE")),
        None => Ok(()),
    }
}

/// One container, by name, id or a unique beginning of it.
#[utoipa::path(get, path = "/v1/containers/{container}", params(("container" = String, Path)),
    responses((status = OK, body = ContainerView), (status = "default", body = Fault)))]
async fn container(State(api): State<Api>, Named(name): Named) -> Answer<ContainerView> {
    let containers = api.site.ask(ANSWER_WAIT, Ask::Containers).await?;
    let id = one("container", &name, &container_candidates(&containers))?;
    let found = containers.into_iter().find(|container| container.container == id);
    found.map(Json).ok_or_else(|| Fault::new(Kind::NotFound, format!("container {id} is gone")))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Removal {
    /// Even while it runs.
    #[serde(default)]
    force: bool,
}

/// Remove a container of this site and retire it.
#[utoipa::path(delete, path = "/v1/containers/{container}", params(("container" = String, Path), Removal),
    responses((status = NO_CONTENT), (status = "default", body = Fault)))]
async fn remove(
    State(api): State<Api>,
    Named(name): Named,
    Params(Removal { force }): Params<Removal>,
) -> Result<StatusCode, Fault> {
    let container = api.container(&name).await?;
    api.site.ask(STOP_WAIT, |reply| Ask::Remove { container, force, reply }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Stop a container of this site.
#[utoipa::path(post, path = "/v1/containers/{container}/stop", params(("container" = String, Path)),
    responses((status = NO_CONTENT), (status = "default", body = Fault)))]
async fn stop(State(api): State<Api>, Named(name): Named) -> Result<StatusCode, Fault> {
    let container = api.container(&name).await?;
    api.site.ask(STOP_WAIT, |reply| Ask::Stop(container, reply)).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct LogParams {
    /// At most this many of the last lines.
    tail: Option<u32>,
    /// Go on with what it writes from now on.
    #[serde(default)]
    follow: bool,
}

/// The output of a container of this site, one JSON object a line.
#[utoipa::path(get, path = "/v1/containers/{container}/logs", params(("container" = String, Path), LogParams),
    responses((status = OK, body = LogLine, content_type = "application/x-ndjson"), (status = "default", body = Fault)))]
async fn logs(
    State(api): State<Api>,
    Named(name): Named,
    Params(LogParams { tail, follow }): Params<LogParams>,
) -> Result<Response, Fault> {
    let container = api.container(&name).await?;
    let lines = api.site.ask(ANSWER_WAIT, |reply| Ask::Logs { container, tail, follow, reply }).await?;
    Ok(stream::log_lines(lines, api.stopping))
}

/// Offer a container of this site to the others.
#[utoipa::path(post, path = "/v1/containers/{container}/migrate", params(("container" = String, Path)), request_body = Migrate,
    responses((status = ACCEPTED, body = Offered), (status = "default", body = Fault)))]
async fn migrate(
    State(api): State<Api>,
    Named(name): Named,
    Body(Migrate { prefer }): Body<Migrate>,
) -> Result<(StatusCode, Json<Offered>), Fault> {
    let container = api.container(&name).await?;
    let prefer = match prefer {
        Some(name) => Some(api.site_named(&name).await?),
        None => None,
    };
    let offer = api.site.ask(ANSWER_WAIT, |reply| Ask::Migrate { container, prefer, reply }).await?;
    Ok((StatusCode::ACCEPTED, Json(Offered { offer })))
}

/// Empty this site and accept nothing, or end that.
#[utoipa::path(post, path = "/v1/drain", request_body = Drain,
    responses((status = OK, body = Draining), (status = "default", body = Fault)))]
async fn drain(State(api): State<Api>, Body(Drain { on }): Body<Drain>) -> Answer<Draining> {
    let containers = api.site.ask(ANSWER_WAIT, |reply| Ask::Drain { on, reply }).await?;
    Ok(Json(Draining { on, containers }))
}

/// Open offers and those that ended lately, newest first.
#[utoipa::path(get, path = "/v1/offers", responses((status = OK, body = Vec<OfferView>), (status = "default", body = Fault)))]
async fn offers(State(api): State<Api>) -> Answer<Vec<OfferView>> {
    api.site.ask(ANSWER_WAIT, Ask::Offers).await.map(Json)
}

/// One offer, by id or a unique beginning of it.
#[utoipa::path(get, path = "/v1/offers/{offer}", params(("offer" = String, Path)),
    responses((status = OK, body = OfferView), (status = "default", body = Fault)))]
async fn offer(State(api): State<Api>, Named(name): Named) -> Answer<OfferView> {
    let offers = api.site.ask(ANSWER_WAIT, Ask::Offers).await?;
    let id = one("offer", &name, &offer_candidates(&offers))?;
    let found = offers.into_iter().find(|offer| offer.offer == id);
    found.map(Json).ok_or_else(|| Fault::new(Kind::NotFound, format!("offer {id} is gone")))
}

/// One handoff, step by step.
#[utoipa::path(get, path = "/v1/offers/{offer}/timeline", params(("offer" = String, Path)),
    responses((status = OK, body = TimelineView), (status = "default", body = Fault)))]
async fn timeline(State(api): State<Api>, Named(name): Named) -> Answer<TimelineView> {
    let offer = api.offer(&name).await?;
    api.site.ask(ANSWER_WAIT, |reply| Ask::Timeline(offer, reply)).await.map(Json)
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Range {
    /// The first height; the most recent blocks if absent.
    from: Option<u64>,
    /// How many at most, 1 to 256.
    #[serde(default = "twenty")]
    most: u16,
}

fn twenty() -> u16 {
    20
}

/// Committed blocks in order of height, from 1 if `from` is absent, as they are stored: each is its length in four bytes,
/// little-endian, and its canonical bytes. There are fewer than `most` if they are large; an empty body is the end.
#[utoipa::path(get, path = "/v1/blocks/raw", params(Range),
    responses((status = OK, body = Vec<u8>, content_type = "application/octet-stream"), (status = "default", body = Fault)))]
async fn raw_blocks(State(api): State<Api>, Params(Range { from, most }): Params<Range>) -> Result<Response, Fault> {
    check_most(most)?;
    let from = Height(from.unwrap_or(1).max(1));
    let blocks = api.site.ask(ANSWER_WAIT, |reply| Ask::Raw { from, most, reply }).await?;
    Ok(octets(raw::join(&blocks)))
}

/// The proof of one record, by id or a unique beginning of it, as a file for `godwit verify`.
#[utoipa::path(get, path = "/v1/records/{record}/proof", params(("record" = String, Path)),
    responses((status = OK, body = Vec<u8>, content_type = "application/octet-stream"), (status = "default", body = Fault)))]
async fn proof(State(api): State<Api>, Named(name): Named) -> Result<Response, Fault> {
    let record = api.record(&name).await?;
    api.site.ask(ANSWER_WAIT, |reply| Ask::Prove(record, reply)).await.map(octets)
}

fn octets(bytes: Vec<u8>) -> Response {
    ([(CONTENT_TYPE, "application/octet-stream")], bytes).into_response()
}

fn check_most(most: u16) -> Result<(), Fault> {
    if (1..=BLOCKS_MAX).contains(&most) {
        return Ok(());
    }
    Err(Fault::new(Kind::Invalid, format!("`most` is 1 to {BLOCKS_MAX}, not {most}")))
}

/// Committed blocks in order of height.
#[utoipa::path(get, path = "/v1/blocks", params(Range),
    responses((status = OK, body = Vec<BlockView>), (status = "default", body = Fault)))]
async fn blocks(State(api): State<Api>, Params(Range { from, most }): Params<Range>) -> Answer<Vec<BlockView>> {
    check_most(most)?;
    let from = match from {
        Some(height) => height.max(1),
        None => {
            let tip = api.site.ask(ANSWER_WAIT, Ask::Status).await?.height;
            tip.saturating_sub(u64::from(most) - 1).max(1)
        }
    };
    api.site.ask(ANSWER_WAIT, |reply| Ask::Log { from: Height(from), most, reply }).await.map(Json)
}

/// What happens, as it happens: server-sent events whose data is a `Notice`.
#[utoipa::path(get, path = "/v1/events",
    responses((status = OK, body = Notice, content_type = "text/event-stream"), (status = "default", body = Fault)))]
async fn events(State(api): State<Api>) -> Response {
    stream::events(api.site.notices(), api.stopping)
}

/// Metrics in the OpenMetrics text format.
#[utoipa::path(get, path = "/metrics",
    responses((status = OK, body = String, content_type = "application/openmetrics-text"), (status = "default", body = Fault)))]
async fn metrics(State(api): State<Api>) -> Result<Response, Fault> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &api.metrics)
        .map_err(|error| Fault::new(Kind::Failed, format!("encode metrics: {error}")))?;
    Ok(([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response())
}

/// This description.
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = OK, body = Object)))]
async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(described().into_openapi())
}

impl Api {
    async fn container(&self, name: &str) -> Result<ContainerId, Fault> {
        if let Ok(id) = name.parse() {
            return Ok(id);
        }
        let containers = self.site.ask(ANSWER_WAIT, Ask::Containers).await?;
        one("container", name, &container_candidates(&containers))
    }

    async fn offer(&self, name: &str) -> Result<OfferId, Fault> {
        if let Ok(id) = name.parse() {
            return Ok(id);
        }
        let offers = self.site.ask(ANSWER_WAIT, Ask::Offers).await?;
        one("offer", name, &offer_candidates(&offers))
    }

    async fn record(&self, name: &str) -> Result<RecordId, Fault> {
        if let Ok(id) = name.parse() {
            return Ok(id);
        }
        let found = self.site.ask(ANSWER_WAIT, |reply| Ask::Find(name.to_owned(), reply)).await?;
        let candidates: Vec<_> = found.into_iter().map(|id| Candidate { id, name: String::new() }).collect();
        one("record", name, &candidates)
    }

    async fn site_named(&self, name: &str) -> Result<SiteId, Fault> {
        let sites = self.site.ask(ANSWER_WAIT, Ask::Sites).await?;
        let candidates: Vec<_> =
            sites.iter().map(|site| Candidate { id: site.site, name: site.name.clone() }).collect();
        one("site", name, &candidates)
    }
}

fn container_candidates(containers: &[ContainerView]) -> Vec<Candidate<ContainerId>> {
    containers.iter().map(|c| Candidate { id: c.container, name: c.name.clone() }).collect()
}

fn offer_candidates(offers: &[OfferView]) -> Vec<Candidate<OfferId>> {
    offers.iter().map(|offer| Candidate { id: offer.offer, name: String::new() }).collect()
}
