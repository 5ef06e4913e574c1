//! The API against a fake site, over real sockets.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::body::BODY_MAX;
use super::fake;
use super::fault::{Fault, Kind};
use super::routes::Api;
use super::serve::{Listeners, ServeError};
use super::site::{ASKS_MAX, Ask, NOTICES_MAX, Notice, SiteHandle, channel};
use super::token::Token;
use super::view::{LogLine, StatusView};

/// An API that serves until it is stopped.
struct Served {
    folder: tempfile::TempDir,
    socket: PathBuf,
    loopback: SocketAddr,
    token: String,
    http: Client,
    stopping: CancellationToken,
    serving: JoinHandle<()>,
}

async fn serve(site: SiteHandle) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let (socket, token) = (folder.path().join("run/api.sock"), folder.path().join("token"));
    Token::write_new(&token).unwrap();
    let listeners = Listeners::bind(&socket, Some(((Ipv4Addr::LOCALHOST, 0).into(), &token))).await.unwrap();
    let loopback = listeners.loopback_address().unwrap();
    let mut metrics = Registry::default();
    let refused = Counter::<u64>::default();
    refused.inc_by(3);
    metrics.register("godwit_refused", "Refused messages", refused);
    let stopping = CancellationToken::new();
    let api = Api { site, metrics: Arc::new(metrics), stopping: stopping.clone() };
    Served {
        http: Client::builder().unix_socket(socket.as_path()).build().unwrap(),
        token: std::fs::read_to_string(&token).unwrap().trim().to_owned(),
        serving: tokio::spawn(listeners.serve(api)),
        folder,
        socket,
        loopback,
        stopping,
    }
}

impl Served {
    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("http://localhost{path}"))
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        self.request(Method::GET, path).send().await.unwrap()
    }
}

fn deployment() -> Value {
    json!({ "image": "redis:7", "cpu_m": 500, "memory_bytes": 1_048_576, "max_delay_ms": 100 })
}

#[tokio::test]
async fn the_socket_is_for_its_owner_only_and_answers() {
    let served = serve(fake::site()).await;
    let mode = std::fs::metadata(&served.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let answer = served.get("/v1/status").await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.json::<StatusView>().await.unwrap(), fake::status());
}

#[tokio::test]
async fn each_request_has_its_status_and_each_refusal_its_reason() {
    let served = serve(fake::site()).await;
    let cam = "31".repeat(16);
    let requests: Vec<(Method, String, Option<Value>, u16)> = vec![
        (Method::GET, "/v1/health".into(), None, 503),
        (Method::GET, "/v1/sites".into(), None, 200),
        (Method::GET, "/v1/members".into(), None, 200),
        (Method::GET, "/v1/containers?local=true".into(), None, 200),
        (Method::GET, "/v1/containers?lokal=true".into(), None, 400),
        (Method::GET, "/v1/containers/cam".into(), None, 200),
        (Method::GET, "/v1/containers/3".into(), None, 409),
        (Method::GET, "/v1/containers/zz".into(), None, 404),
        (Method::POST, "/v1/containers/cam/stop".into(), None, 204),
        (Method::POST, format!("/v1/containers/{cam}/stop"), None, 204),
        (Method::POST, "/v1/containers/cam2/stop".into(), None, 409),
        (Method::DELETE, "/v1/containers/cam".into(), None, 409),
        (Method::DELETE, "/v1/containers/cam?force=true".into(), None, 204),
        (Method::POST, "/v1/containers".into(), Some(deployment()), 201),
        (Method::POST, "/v1/containers".into(), Some(json!({ "image": "redis:7" })), 400),
        (Method::POST, "/v1/containers/cam/migrate".into(), Some(json!({})), 202),
        (Method::POST, "/v1/containers/cam/migrate".into(), Some(json!({ "prefer": "faro" })), 202),
        (Method::POST, "/v1/containers/cam/migrate".into(), Some(json!({ "prefer": "lagos" })), 404),
        (Method::POST, "/v1/drain".into(), Some(json!({ "on": true })), 200),
        (Method::POST, "/v1/drain".into(), Some(json!({ "on": "yes" })), 400),
        (Method::GET, "/v1/offers".into(), None, 200),
        (Method::GET, "/v1/offers/9c".into(), None, 200),
        (Method::GET, "/v1/offers/9c/timeline".into(), None, 200),
        (Method::GET, "/v1/offers/00/timeline".into(), None, 404),
        (Method::GET, "/v1/blocks?from=1&most=2".into(), None, 200),
        (Method::GET, "/v1/blocks?most=0".into(), None, 400),
        (Method::GET, "/v1/blocks?most=257".into(), None, 400),
        (Method::GET, "/v1/blocks?from=-1".into(), None, 400),
        (Method::GET, "/v1/blocks/raw?from=2&most=2".into(), None, 200),
        (Method::GET, "/v1/blocks/raw?most=0".into(), None, 400),
        (Method::GET, "/v1/records/88/proof".into(), None, 200),
        (Method::GET, "/v1/records/70/proof".into(), None, 404),
        (Method::GET, "/v1/records/7/proof".into(), None, 409),
        (Method::GET, "/v1/records/zz/proof".into(), None, 404),
        (Method::GET, "/v1/nothing".into(), None, 404),
        (Method::PUT, "/v1/status".into(), None, 405),
        // The fake site drops this one.
        (
            Method::POST,
            "/v1/approvals".into(),
            Some(json!({ "epoch": 0, "change": { "remove": "a1".repeat(32) } })),
            503,
        ),
    ];
    for (method, path, body, status) in requests {
        let mut request = served.request(method.clone(), &path);
        if let Some(body) = &body {
            request = request.json(body);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{method} {path} {body:?}");
        if status >= 400 && path != "/v1/health" {
            let fault: Fault = answer.json().await.unwrap();
            assert_eq!(fault.kind.status().as_u16(), status, "{method} {path}: {fault}");
            assert!(!fault.error.is_empty());
        }
    }
}

#[tokio::test]
async fn a_bad_deployment_is_refused_by_what_is_wrong_with_it() {
    let served = serve(fake::site()).await;
    let too_many: Vec<_> = (0..257).map(|n| format!("K{n}=V")).collect();
    let cases = [
        ("image", json!(""), "image"),
        ("image", json!("a\u{7}"), "control"),
        ("image", json!("x".repeat(256)), "at most 255"),
        ("cpu_m", json!(0), "cpu_m"),
        ("cpu_m", json!(-1), "cpu_m"),
        ("memory_bytes", json!(0), "memory_bytes"),
        ("env", json!(["NOVALUE"]), "KEY=VALUE"),
        ("env", json!(["=v"]), "KEY=VALUE"),
        ("env", json!(too_many), "at most 256"),
        ("ports", json!([{ "host": 0, "container": 80 }]), "1 to 65535"),
        ("clients", json!(["abc"]), "hexadecimal"),
        ("colour", json!("red"), "colour"),
    ];
    for (key, value, named) in cases {
        let mut body = deployment();
        body[key] = value.clone();
        let answer = served.request(Method::POST, "/v1/containers").json(&body).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{key} = {value}");
        let fault: Fault = answer.json().await.unwrap();
        assert!(fault.error.contains(named), "{key} = {value}: {fault}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_or_no_json_is_not_read() {
    let served = serve(fake::site()).await;
    let post = |body: Vec<u8>, kind: &'static str| {
        served.request(Method::POST, "/v1/drain").header("content-type", kind).body(body).send()
    };
    let large = post(vec![b' '; BODY_MAX + 1], "application/json").await.unwrap();
    assert_eq!(large.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(large.json::<Fault>().await.unwrap().error.contains("131072 bytes"));
    let text = post(b"{\"on\":true}".to_vec(), "text/plain").await.unwrap();
    assert_eq!(text.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let broken = post(b"{".to_vec(), "application/json").await.unwrap();
    assert_eq!(broken.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn loopback_admits_the_bearer_of_the_token_only() {
    let served = serve(fake::site()).await;
    let http = Client::builder().no_proxy().build().unwrap();
    for (path, token, status) in [
        ("/v1/status", None, StatusCode::UNAUTHORIZED),
        ("/v1/status", Some("0".repeat(64)), StatusCode::UNAUTHORIZED),
        ("/v1/status", Some(served.token.clone()), StatusCode::OK),
        ("/metrics", None, StatusCode::UNAUTHORIZED),
        ("/metrics", Some(served.token.clone()), StatusCode::OK),
        ("/v1/nothing", None, StatusCode::UNAUTHORIZED),
    ] {
        let request = http.get(format!("http://{}{path}", served.loopback));
        let request = if let Some(token) = &token { request.bearer_auth(token) } else { request };
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status, "{path} {token:?}");
    }
}

#[tokio::test]
async fn the_api_never_listens_where_another_machine_can_reach_it() {
    let served = serve(fake::site()).await;
    let token = served.folder.path().join("token");
    let socket = served.folder.path().join("other.sock");
    let refused = Listeners::bind(&socket, Some((([0, 0, 0, 0], 0).into(), &token))).await.unwrap_err();
    assert!(matches!(refused, ServeError::NotLoopback(_)));
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_one_in_use_or_another_file_is_not() {
    let served = serve(fake::site()).await;
    assert!(matches!(Listeners::bind(&served.socket, None).await.unwrap_err(), ServeError::InUse(_)));
    let stale = served.folder.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    assert!(stale.exists());
    Listeners::bind(&stale, None).await.unwrap();
    let file = served.folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(Listeners::bind(&file, None).await.unwrap_err(), ServeError::NoSocket(_)));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

#[tokio::test]
async fn notices_are_streamed_and_missed_ones_are_counted() {
    let (site, end) = channel();
    let served = serve(site).await;
    let mut events = served.get("/v1/events").await.bytes_stream();
    let alert = |n: usize| Notice::Alert { problem: format!("no quorum {n}"), remedy: None };
    let begun = events.next().await.expect("something comes before the first notice").unwrap();
    assert!(begun.starts_with(b":"), "{begun:?}");
    end.notices.send(alert(0)).unwrap();
    let first = next_event(&mut events, &mut String::new()).await;
    assert_eq!(first, alert(0));
    for n in 0..NOTICES_MAX * 4 {
        end.notices.send(alert(n)).unwrap();
    }
    let mut rest = String::new();
    let missed = loop {
        if let Notice::Missed { notices } = next_event(&mut events, &mut rest).await {
            break notices;
        }
    };
    assert!(missed > 0);
}

/// The next `data:` line of an event stream.
async fn next_event(
    stream: &mut (impl futures::Stream<Item = reqwest::Result<impl AsRef<[u8]>>> + Unpin),
    rest: &mut String,
) -> Notice {
    loop {
        if let Some((line, after)) = rest.split_once('\n') {
            let (line, after) = (line.to_owned(), after.to_owned());
            *rest = after;
            if let Some(json) = line.strip_prefix("data:") {
                return serde_json::from_str(json).unwrap();
            }
            continue;
        }
        let bytes = stream.next().await.expect("the stream goes on").unwrap();
        rest.push_str(std::str::from_utf8(bytes.as_ref()).unwrap());
    }
}

#[tokio::test]
async fn streams_end_and_the_socket_goes_when_the_site_stops() {
    let served = serve(fake::site()).await;
    let events = served.get("/v1/events").await;
    served.stopping.cancel();
    events.text().await.unwrap();
    served.serving.await.unwrap();
    assert!(!served.socket.exists());
}

#[tokio::test]
async fn log_lines_are_json_lines() {
    let served = serve(fake::site()).await;
    let text = served.get("/v1/containers/cam/logs?tail=2").await.text().await.unwrap();
    let lines: Vec<LogLine> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, fake::log_lines()[1..]);
}

#[tokio::test]
async fn raw_blocks_come_as_they_are_stored_until_there_are_none() {
    let served = serve(fake::site()).await;
    let body = served.get("/v1/blocks/raw?from=2").await.bytes().await.unwrap();
    assert_eq!(super::raw::split(&body), Some(vec![2_u64.to_le_bytes().to_vec(), 3_u64.to_le_bytes().to_vec()]));
    assert!(served.get("/v1/blocks/raw?from=4").await.bytes().await.unwrap().is_empty());
}

#[tokio::test]
async fn metrics_are_those_of_the_registry() {
    let served = serve(fake::site()).await;
    let answer = served.get("/metrics").await;
    assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    let text = answer.text().await.unwrap();
    assert!(text.contains("godwit_refused_total 3") && text.ends_with("# EOF\n"), "{text}");
}

const ROUTES: &[(&str, &str)] = &[
    ("get", "/metrics"),
    ("post", "/v1/approvals"),
    ("get", "/v1/blocks"),
    ("get", "/v1/blocks/raw"),
    ("get", "/v1/containers"),
    ("post", "/v1/containers"),
    ("delete", "/v1/containers/{container}"),
    ("get", "/v1/containers/{container}"),
    ("get", "/v1/containers/{container}/logs"),
    ("post", "/v1/containers/{container}/migrate"),
    ("post", "/v1/containers/{container}/stop"),
    ("post", "/v1/drain"),
    ("get", "/v1/events"),
    ("get", "/v1/health"),
    ("get", "/v1/members"),
    ("post", "/v1/members"),
    ("get", "/v1/offers"),
    ("get", "/v1/offers/{offer}"),
    ("get", "/v1/offers/{offer}/timeline"),
    ("get", "/v1/openapi.json"),
    ("get", "/v1/records/{record}/proof"),
    ("get", "/v1/sites"),
    ("get", "/v1/status"),
];

#[tokio::test]
async fn the_description_lists_exactly_the_routes_that_there_are() {
    let served = serve(fake::site()).await;
    let document: Value = served.get("/v1/openapi.json").await.json().await.unwrap();
    let paths = document["paths"].as_object().unwrap();
    let mut listed: Vec<(&str, &str)> = paths
        .iter()
        .flat_map(|(path, methods)| methods.as_object().unwrap().keys().map(|m| (m.as_str(), path.as_str())))
        .collect();
    listed.sort_by_key(|(method, path)| (*path, *method));
    assert_eq!(listed, ROUTES);
    for path in paths.keys() {
        for method in ["get", "post", "put", "patch", "delete"] {
            let name = path.replace("{container}", "cam").replace("{offer}", "9c").replace("{record}", "88");
            let method_name: Method = method.to_uppercase().parse().unwrap();
            let answer = served.request(method_name, &name).send().await.unwrap();
            let there = answer.status() != StatusCode::METHOD_NOT_ALLOWED;
            assert_eq!(there, ROUTES.contains(&(method, path)), "{method} {path}: {}", answer.status());
            assert_ne!(answer.status(), StatusCode::NOT_FOUND, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn every_schema_that_the_description_refers_to_is_in_it() {
    let served = serve(fake::site()).await;
    let text = served.get("/v1/openapi.json").await.text().await.unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "{name}");
    }
    for name in ["Fault", "Notice", "StatusView", "ContainerView", "TimelineView", "StepView", "Deploy"] {
        assert!(schemas.contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn a_site_that_hangs_or_stops_is_said_to() {
    let (site, end) = channel();
    let short = Duration::from_millis(1);
    for _ in 0..ASKS_MAX {
        assert_eq!(site.ask(short, Ask::Status).await.unwrap_err().kind, Kind::Timeout);
    }
    let full = site.ask(short, Ask::Status).await.unwrap_err();
    assert_eq!(full.kind, Kind::Unavailable);
    assert!(full.error.contains("waiting"), "{full}");
    drop(end);
    let stopped = site.ask(short, Ask::Status).await.unwrap_err();
    assert!(stopped.error.contains("stopping"), "{stopped}");
}

#[tokio::test]
async fn a_socket_in_a_folder_that_cannot_be_made_is_named() {
    let refused = Listeners::bind(Path::new("/proc/none/api.sock"), None).await.unwrap_err();
    assert!(refused.to_string().contains("/proc/none/api.sock"), "{refused}");
}
