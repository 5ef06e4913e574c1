//! As much of HTTP/1.1 as a test needs: keep-alive on the serving side, one request at a time on the asking side.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

/// Request head, headers included.
const HEAD_MAX: usize = 8 * 1024;
const HEADERS_MAX: usize = 64;
/// No request of ours has a body; a client's small one is read and ignored.
const BODY_MAX: usize = 64 * 1024;
/// The client reads no more than this of an answer: a million acknowledged values fit.
const ANSWER_MAX: u64 = 64 * 1024 * 1024;
/// A kept connection may rest for long: whether it survives a migration is what tests ask.
const IDLE_MAX: Duration = Duration::from_secs(600);

pub struct Request {
    pub method: String,
    pub path: String,
    pub query: String,
}

/// Status and JSON body.
pub type Answer = (u16, String);

/// A parsed head, and what it says about the bytes around it.
struct Head {
    request: Request,
    bytes: usize,
    body_bytes: usize,
    keep_alive: bool,
}

/// Serves one connection until either side closes it.
pub fn serve(mut stream: TcpStream, answer: impl Fn(&Request) -> Answer) {
    // Whatever goes wrong with a connection ends it; the client sees that.
    let _ = serve_all(&mut stream, answer);
}

fn serve_all(stream: &mut TcpStream, answer: impl Fn(&Request) -> Answer) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE_MAX))?;
    stream.set_write_timeout(Some(IDLE_MAX))?;
    let mut received = Vec::new();
    loop {
        match parse_request(&received) {
            Ok(Some(head)) if received.len() >= head.bytes + head.body_bytes => {
                received.drain(..head.bytes + head.body_bytes);
                send(stream, &answer(&head.request), head.keep_alive)?;
                if !head.keep_alive {
                    return Ok(());
                }
            }
            Ok(_) => {
                let mut buffer = [0; 4096];
                match stream.read(&mut buffer)? {
                    0 => return Ok(()),
                    n => received.extend_from_slice(&buffer[..n]),
                }
            }
            Err(refusal) => return send(stream, &refusal, false),
        }
    }
}

/// `None`: the head is not complete yet.
fn parse_request(received: &[u8]) -> Result<Option<Head>, Answer> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let bytes = match parsed.parse(received).map_err(|e| refuse(400, &e.to_string()))? {
        httparse::Status::Complete(bytes) => bytes,
        httparse::Status::Partial if received.len() > HEAD_MAX => return Err(refuse(431, "head too large")),
        httparse::Status::Partial => return Ok(None),
    };
    let header = |name: &str| {
        let found = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        Some(String::from_utf8_lossy(found.value).to_ascii_lowercase())
    };
    if header("transfer-encoding").is_some() {
        return Err(refuse(501, "transfer encodings are not supported"));
    }
    let body_bytes = header("content-length").map_or(Ok(0), |text| text.trim().parse());
    let body_bytes = body_bytes.map_err(|_| refuse(400, "content-length is not a number"))?;
    if body_bytes > BODY_MAX {
        return Err(refuse(413, "body too large"));
    }
    let keep_alive = match header("connection") {
        Some(value) => value.contains("keep-alive") || (parsed.version == Some(1) && !value.contains("close")),
        None => parsed.version == Some(1),
    };
    let target = parsed.path.unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let method = parsed.method.unwrap_or_default().to_owned();
    let request = Request { method, path: path.to_owned(), query: query.to_owned() };
    Ok(Some(Head { request, bytes, body_bytes, keep_alive }))
}

/// An error's answer. `why` is text of ours, without quotes.
pub fn refuse(status: u16, why: &str) -> Answer {
    (status, format!(r#"{{"error":"{}"}}"#, why.replace(['"', '\\'], "'")))
}

fn send(stream: &mut TcpStream, (status, body): &Answer, keep_alive: bool) -> io::Result<()> {
    let reason = if *status == 200 { "OK" } else { "Refused" };
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let length = body.len() + 1;
    // One write: a checkpoint between two would show as a stall of its own.
    let answer = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n{body}\n"
    );
    stream.write_all(answer.as_bytes())
}

/// Asks once and answers status and body. Speaks HTTP/1.0, so that no server sends the body in chunks.
///
/// # Errors
/// When the server cannot be reached, is silent for `timeout`, or does not answer in HTTP.
pub fn ask(address: SocketAddr, method: &str, target: &str, timeout: Duration) -> anyhow::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect_timeout(&address, timeout).with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let request = format!("{method} {target} HTTP/1.0\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).context("send request")?;
    let mut received = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut received).context("read answer")?;

    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = parsed.parse(&received).context("answer is not HTTP")? else {
        bail!("{address} closed the connection within the head of its answer");
    };
    let status = parsed.code.context("answer has no status")?;
    let length = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let body = received[head..].to_vec();
    if let Some(length) = length {
        let promised: usize = std::str::from_utf8(length.value)?.trim().parse().context("content-length")?;
        ensure!(body.len() == promised, "{address} sent {} of {promised} bytes", body.len());
    }
    Ok((status, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(raw: &str) -> u16 {
        parse_request(raw.as_bytes()).err().expect("refused").0
    }

    #[test]
    fn a_request_is_read_only_when_its_head_is_complete() {
        let raw = "POST /acknowledge?n=7 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET";
        for end in 0..raw.len() - 6 {
            assert!(parse_request(&raw.as_bytes()[..end]).unwrap().is_none(), "{end}");
        }
        let head = parse_request(raw.as_bytes()).unwrap().unwrap();
        let Request { method, path, query } = &head.request;
        assert_eq!((method.as_str(), path.as_str(), query.as_str()), ("POST", "/acknowledge", "n=7"));
        assert_eq!((head.bytes, head.body_bytes, head.keep_alive), (raw.len() - 6, 3, true));
    }

    #[test]
    fn keep_alive_follows_version_and_header() {
        for (version, header, expected) in [
            ("1.1", "", true),
            ("1.0", "", false),
            ("1.1", "Connection: Close\r\n", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
        ] {
            let raw = format!("GET / HTTP/{version}\r\n{header}\r\n");
            assert_eq!(parse_request(raw.as_bytes()).unwrap().unwrap().keep_alive, expected, "{raw}");
        }
    }

    #[test]
    fn what_cannot_be_served_is_refused_by_status() {
        assert_eq!(status("not http at all\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"), 400);
        assert_eq!(status("POST / HTTP/1.1\r\nContent-Length: 70000\r\n\r\n"), 413);
        assert_eq!(status("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), 501);
        assert_eq!(status(&format!("GET /{} HTTP/1.1\r\n", "a".repeat(HEAD_MAX))), 431);
    }
}
