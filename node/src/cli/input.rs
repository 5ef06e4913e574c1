//! How people write quantities. A refusal says what would have been right.

use std::net::Ipv4Addr;

use godwit_protocol::membership::Role;
use godwit_protocol::{Bytes, Dbm, MilliCpu, Millis};

use crate::api::view::{Port, Transport};

/// A decimal number as so many thousandths: `1.5` is 1500. No floating point, so that `0.1` is 100.
fn thousandths(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 3 {
        return None;
    }
    let part: u64 = format!("{part:0<3}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(part)
}

/// A number and its unit.
fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at(end)
}

pub fn cpus(text: &str) -> Result<MilliCpu, String> {
    let cores = thousandths(text).and_then(|thousandths| u32::try_from(thousandths).ok());
    cores.filter(|&m| m > 0).map(MilliCpu).ok_or_else(|| "expected a number of cores such as 0.5 or 2".to_owned())
}

pub fn bytes(text: &str) -> Result<Bytes, String> {
    let expected = || "expected a size such as 256m, 1.5g or 65536".to_owned();
    let (number, unit) = split_unit(text);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(expected()),
    };
    let bytes = thousandths(number).and_then(|n| n.checked_mul(1 << shift)).map(|n| n / 1000);
    bytes.filter(|&bytes| bytes > 0).map(Bytes).ok_or_else(expected)
}

pub fn span(text: &str) -> Result<Millis, String> {
    let expected = || "expected a time such as 100ms, 2s or 1m".to_owned();
    let (number, unit) = split_unit(text);
    let factor = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(expected()),
    };
    thousandths(number).and_then(|n| n.checked_mul(factor)).map(|n| Millis(n / 1000)).ok_or_else(expected)
}

pub fn port(text: &str) -> Result<Port, String> {
    let expected = || "expected [ADDRESS:]HOST:CONTAINER[/tcp|/udp], such as 8080:80".to_owned();
    let (ports, protocol) = match text.split_once('/') {
        None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), Transport::Tcp),
        Some((ports, "udp")) => (ports, Transport::Udp),
        Some(_) => return Err(expected()),
    };
    let number = |text: &str| text.parse::<u16>().ok().filter(|&port| port > 0).ok_or_else(expected);
    match ports.split(':').collect::<Vec<_>>().as_slice() {
        [both] => Ok(Port { address: None, host: number(both)?, container: number(both)?, protocol }),
        [host, container] => Ok(Port { address: None, host: number(host)?, container: number(container)?, protocol }),
        [address, host, container] => Ok(Port {
            address: Some(address.parse::<Ipv4Addr>().map_err(|_| expected())?),
            host: number(host)?,
            container: number(container)?,
            protocol,
        }),
        _ => Err(expected()),
    }
}

pub fn variable(text: &str) -> Result<String, String> {
    if let Some((key, _)) = text.split_once('=') {
        return if key.is_empty() { Err("expected KEY=VALUE".to_owned()) } else { Ok(text.to_owned()) };
    }
    match std::env::var(text) {
        Ok(value) => Ok(format!("{text}={value}")),
        Err(_) => Err("expected KEY=VALUE; this shell has no such variable to take the value from".to_owned()),
    }
}

pub fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| "expected KEY=VALUE".to_owned())?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

pub fn role(text: &str) -> Result<Role, String> {
    match text {
        "validator" => Ok(Role::Validator),
        "member" => Ok(Role::Member),
        "observer" => Ok(Role::Observer),
        _ => Err("expected validator, member or observer".to_owned()),
    }
}

pub fn range(text: &str) -> Result<(Ipv4Addr, u8), String> {
    let parsed = text.split_once('/').and_then(|(address, prefix)| Some((address.parse().ok()?, prefix.parse().ok()?)));
    parsed.ok_or_else(|| "expected a range such as 10.77.0.0/16".to_owned())
}

pub fn signal(text: &str) -> Result<(String, Dbm), String> {
    let parsed = text.split_once('=').and_then(|(site, dbm)| Some((site, dbm.parse::<i16>().ok()?)));
    match parsed {
        Some((site, dbm)) if !site.is_empty() && (-200..=0).contains(&dbm) => Ok((site.to_owned(), Dbm(dbm))),
        _ => Err("expected SITE=DBM with -200 to 0 dBm, such as porto=-72".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_people_write_them() {
        assert_eq!(cpus("0.5"), Ok(MilliCpu(500)));
        assert_eq!(cpus("2"), Ok(MilliCpu(2000)));
        assert_eq!(bytes("256m"), Ok(Bytes(256 << 20)));
        assert_eq!(bytes("1.5GiB"), Ok(Bytes(3 << 29)));
        assert_eq!(bytes("65536"), Ok(Bytes(65536)));
        assert_eq!(span("100ms"), Ok(Millis(100)));
        assert_eq!(span("1.5s"), Ok(Millis(1500)));
        assert_eq!(range("10.77.0.0/16"), Ok((Ipv4Addr::new(10, 77, 0, 0), 16)));
        assert_eq!(signal("porto=-72"), Ok(("porto".to_owned(), Dbm(-72))));
    }

    #[test]
    fn ports_are_read_as_docker_reads_them() {
        let port_of = |address, host, container, protocol| Ok(Port { address, host, container, protocol });
        assert_eq!(port("8080:80"), port_of(None, 8080, 80, Transport::Tcp));
        assert_eq!(port("53:53/udp"), port_of(None, 53, 53, Transport::Udp));
        assert_eq!(port("80/tcp"), port_of(None, 80, 80, Transport::Tcp));
        assert_eq!(port("127.0.0.1:8080:80"), port_of(Some(Ipv4Addr::LOCALHOST), 8080, 80, Transport::Tcp));
    }

    #[test]
    fn what_is_no_quantity_is_refused_with_an_example() {
        for text in ["", "0", "-1", "1.2345", "x", "1e3", "5000000"] {
            assert!(cpus(text).is_err(), "cpus {text}");
        }
        for text in ["", "0", "m", "12q", "-5m", "1.2.3m", "99999999999t"] {
            assert!(bytes(text).is_err(), "bytes {text}");
        }
        for text in ["", "100", "5y", "-1s"] {
            assert!(span(text).is_err(), "span {text}");
        }
        for text in ["", "0:80", "80:0", "70000:80", "80:80/sctp", "a:80:80", "1:2:3:4"] {
            assert!(port(text).is_err(), "port {text}");
        }
        for text in ["porto", "=-7", "porto=5", "porto=-300", "porto=x"] {
            assert!(signal(text).is_err(), "signal {text}");
        }
        assert!(
            range("10.0.0.0").is_err() && role("boss").is_err() && setting("x").is_err() && variable("=x").is_err()
        );
    }
}
