//! One function for each sort of value. A refusal is the words after "expected".
//!
//! Variables and flags come as text, so every function takes text as well as its TOML type.

use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use godwit_ledger::store::MIN_RETAINED;
use godwit_protocol::bounded::Text;
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use toml::Value;
use tracing_subscriber::EnvFilter;

use super::LogFormat;
use crate::runtime::place::Place;

/// Addresses in one list; the ledger's members have at most 8.
const LIST_MAX: usize = 64;

fn text(value: &Value) -> Option<&str> {
    value.as_str()
}

pub(super) fn whole<T>(least: T, most: T) -> impl FnOnce(&Value) -> Result<T, String>
where
    T: TryFrom<i64> + PartialOrd + Display + Copy,
{
    move |value| {
        let number = value.as_integer().or_else(|| text(value)?.parse().ok());
        let number = number.and_then(|number| T::try_from(number).ok());
        number.filter(|n| (least..=most).contains(n)).ok_or_else(|| format!("a whole number from {least} to {most}"))
    }
}

/// "all", or how many.
pub(super) fn retain(value: &Value) -> Result<Option<u64>, String> {
    if text(value) == Some("all") {
        return Ok(None);
    }
    whole(MIN_RETAINED, u64::MAX)(value)
        .map(Some)
        .map_err(|_| format!("\"all\", or a number of blocks of at least {MIN_RETAINED}"))
}

pub(super) fn switch(value: &Value) -> Result<bool, String> {
    value.as_bool().or_else(|| text(value)?.parse().ok()).ok_or_else(|| "true or false".to_owned())
}

pub(super) fn path(value: &Value) -> Result<PathBuf, String> {
    text(value).map(PathBuf::from).filter(|path| path.is_absolute()).ok_or_else(|| "an absolute path".to_owned())
}

/// A folder whose sockets have names that the system takes.
pub(super) fn socket_folder(value: &Value) -> Result<PathBuf, String> {
    let expected = || "an absolute path of at most 40 bytes: the names of sockets in it are limited".to_owned();
    path(value).ok().filter(|path| Place::fits(path)).ok_or_else(expected)
}

pub(super) fn optional_path(value: &Value) -> Result<Option<PathBuf>, String> {
    if text(value) == Some("") { Ok(None) } else { path(value).map(Some) }
}

pub(super) fn unix_socket(value: &Value) -> Result<PathBuf, String> {
    let socket = text(value).map(|text| PathBuf::from(text.strip_prefix("unix://").unwrap_or(text)));
    socket.filter(|path| path.is_absolute()).ok_or_else(|| "unix:// and the absolute path of a socket".to_owned())
}

pub(super) fn label(value: &Value) -> Result<Text<64>, String> {
    let fitting = text(value).filter(|text| !text.chars().any(char::is_control));
    fitting.and_then(|text| Text::new(text).ok()).ok_or_else(|| "a text of at most 64 bytes".to_owned())
}

pub(super) fn address(value: &Value) -> Result<Option<Ipv4Addr>, String> {
    let expected = || "\"auto\" or the IPv4 address of one interface".to_owned();
    let text = text(value).ok_or_else(expected)?;
    if text == "auto" {
        return Ok(None);
    }
    let address: Ipv4Addr = text.parse().map_err(|_| expected())?;
    if address.is_unspecified() || address.is_multicast() || address.is_broadcast() {
        return Err(expected());
    }
    Ok(Some(address))
}

pub(super) fn loopback(value: &Value) -> Result<Option<SocketAddr>, String> {
    match text(value) {
        Some("") => Ok(None),
        text => text
            .and_then(|text| text.parse().ok())
            .filter(|address: &SocketAddr| address.ip().is_loopback())
            .map(Some)
            .ok_or_else(|| "a loopback address with a port, such as 127.0.0.1:4180".to_owned()),
    }
}

pub(super) fn listen(value: &Value) -> Result<Vec<Multiaddr>, String> {
    let addresses = multiaddresses(value)?;
    if addresses.is_empty() {
        return Err("at least one multiaddress".to_owned());
    }
    Ok(addresses)
}

pub(super) fn peers(value: &Value) -> Result<Vec<Multiaddr>, String> {
    multiaddresses(value)
}

fn multiaddresses(value: &Value) -> Result<Vec<Multiaddr>, String> {
    let expected = || {
        "a list of multiaddresses such as \"/ip4/192.0.2.7/udp/4101/quic-v1\" or \"/ip4/192.0.2.7/tcp/4101\"".to_owned()
    };
    let texts: Vec<&str> = match value {
        Value::Array(items) => items.iter().map(|item| item.as_str().ok_or_else(expected)).collect::<Result<_, _>>()?,
        Value::String(text) => text.split(',').map(str::trim).filter(|text| !text.is_empty()).collect(),
        _ => return Err(expected()),
    };
    if texts.len() > LIST_MAX {
        return Err(format!("at most {LIST_MAX} multiaddresses"));
    }
    let parse =
        |text: &&str| text.parse().ok().filter(reachable).ok_or_else(|| format!("{}; `{text}` is none", expected()));
    texts.iter().map(parse).collect()
}

/// Host and transport that this program speaks: QUIC or TCP.
fn reachable(address: &Multiaddr) -> bool {
    use Protocol::{Dns, Dns4, Dns6, Ip4, Ip6, P2p, QuicV1, Tcp, Udp};

    let parts: Vec<_> = address.iter().collect();
    let parts = if let [rest @ .., P2p(_)] = parts.as_slice() { rest } else { parts.as_slice() };
    matches!(
        parts,
        [Ip4(_) | Ip6(_) | Dns(_) | Dns4(_) | Dns6(_), Udp(_), QuicV1]
            | [Ip4(_) | Ip6(_) | Dns(_) | Dns4(_) | Dns6(_), Tcp(_)]
    )
}

pub(super) fn log_format(value: &Value) -> Result<LogFormat, String> {
    match text(value) {
        Some("text") => Ok(LogFormat::Text),
        Some("json") => Ok(LogFormat::Json),
        _ => Err("\"text\" or \"json\"".to_owned()),
    }
}

pub(super) fn log_filter(value: &Value) -> Result<String, String> {
    let filter = text(value).filter(|text| EnvFilter::try_new(text).is_ok());
    filter
        .map(str::to_owned)
        .ok_or_else(|| "a level such as \"info\", or directives such as \"info,godwit=debug\"".to_owned())
}
