//! A bad configuration is refused by the name of its key and of its place.

use super::*;

fn set(key: &str, value: &str) -> Setting {
    Setting { flag: format!("--set {key}"), key: key.to_owned(), value: value.to_owned() }
}

fn load(text: &str, variables: &[(&str, &str)], flags: &[Setting]) -> Result<Config, BadConfig> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("godwit.toml");
    // No default route is needed to run these tests.
    let text = if text.contains("address") { text.to_owned() } else { format!("address = '192.0.2.9'\n{text}") };
    std::fs::write(&path, text).unwrap();
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load(Some(&path), variables, flags)
}

#[test]
fn the_example_file_says_the_defaults() {
    let commented = example(&[]);
    let active: String = commented
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if KEYS.iter().any(|key| rest.starts_with(&format!("{} = ", key.name))) => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let active = active.replace("\"auto\"\n", "\"192.0.2.9\"\n");
    let config = load(&active, &[], &[]).unwrap();
    assert_eq!(format!("{config:?}"), format!("{:?}", load("", &[], &[]).unwrap()));
    for key in KEYS {
        assert!(active.contains(&format!("\n{} = ", key.name)), "{} is missing in the example", key.name);
    }
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let config = load("", &[], &[]).unwrap();
    assert_eq!(config.data_dir, Path::new("/var/lib/godwit"));
    assert_eq!(config.api.socket, Path::new("/run/godwit/api.sock"));
    assert_eq!(config.docker, Path::new("/var/run/docker.sock"));
    assert_eq!(config.net.listen.len(), 2);
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.patience, Patience::default());
    assert_eq!(config.offer_window, godwit_protocol::offer::DEFAULT_WINDOW);
    assert_eq!(config.retain, None);
    assert_eq!(load("retain = 5000", &[("GODWIT_RETAIN", "6000")], &[]).unwrap().retain, Some(6000));
    assert!(config.api.loopback.is_none() && config.net.mdns && config.net.peers.is_empty());
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let file = "gossip_ms = 1000\ndwell_ms = 1\nlog = 'warn'";
    let config =
        load(file, &[("GODWIT_GOSSIP_MS", "2000"), ("GODWIT_LOG", "debug")], &[set("gossip_ms", "3000")]).unwrap();
    assert_eq!(config.net.gossip, Duration::from_millis(3000));
    assert_eq!(config.limits.dwell, Millis(1));
    assert_eq!(config.log.filter, "debug");
}

#[test]
fn a_list_is_given_with_commas_where_there_is_no_toml() {
    let config = load("", &[("GODWIT_PEERS", "/ip4/192.0.2.7/tcp/1, /dns4/b.example/udp/2/quic-v1")], &[]).unwrap();
    assert_eq!(config.net.peers.len(), 2);
}

#[test]
fn an_unknown_variable_warns_and_suggests() {
    let config = load("", &[("GODWIT_GOSIP_MS", "1"), ("GODWIT_API", "x"), ("PATH", "/bin")], &[]).unwrap();
    assert_eq!(config.warnings, ["variable GODWIT_GOSIP_MS is no setting, did you mean GODWIT_GOSSIP_MS?"]);
}

#[test]
fn every_bad_value_is_refused_by_the_name_of_its_key() {
    let cases = [
        ("data_dir", "'relative/path'"),
        ("data_dir", "7"),
        ("run_dir", "'/a/folder/whose/path/is/too/long/for/sockets'"),
        ("genesis", "''"),
        ("key", "'site.key'"),
        ("listen", "[]"),
        ("listen", "['0.0.0.0:4101']"),
        ("listen", "['/ip4/0.0.0.0/udp/4101']"),
        ("listen", "['/ip4/0.0.0.0/tcp/4101/ws']"),
        ("listen", "[4101]"),
        ("peers", "['/memory/1']"),
        ("peers", "7"),
        ("mdns", "'perhaps'"),
        ("address", "'0.0.0.0'"),
        ("address", "'::1'"),
        ("address", "'224.0.0.1'"),
        ("network", "'0123456789012345678901234567890123456789012345678901234567890123456789'"),
        ("network", "\"a\\u0007b\""),
        ("gossip_ms", "0"),
        ("gossip_ms", "60000"),
        ("gossip_ms", "1.5"),
        ("gossip_ms", "'soon'"),
        ("cpu_threshold", "0"),
        ("cpu_threshold", "1001"),
        ("memory_threshold", "-1"),
        ("hysteresis", "500"),
        ("dwell_ms", "-1"),
        ("offer_window_ms", "60001"),
        ("client_threshold_dbm", "5"),
        ("client_margin_db", "61"),
        ("overload_ms", "true"),
        ("retry_ms", "'later'"),
        ("prepare_timeout_ms", "0"),
        ("ready_fresh_ms", "0"),
        ("slowest_link_mbit", "0"),
        ("again_ms", "0"),
        ("ready_timeout_ms", "0"),
        ("yield_timeout_ms", "0"),
        ("receipt_timeout_ms", "0"),
        ("retain", "0"),
        ("retain", "4095"),
        ("retain", "'some'"),
        ("docker", "'tcp://192.0.2.1:2375'"),
        ("api_socket", "'api.sock'"),
        ("api_listen", "'0.0.0.0:4180'"),
        ("api_listen", "'127.0.0.1'"),
        ("api_listen", "'127.0.0.1:4180'"), // without a token
        ("api_token_file", "'token'"),
        ("log", "'a=b=c'"),
        ("log_format", "'xml'"),
    ];
    for (key, value) in cases {
        let refused = load(&format!("{key} = {value}"), &[], &[]).expect_err(&format!("{key} = {value}"));
        let text = refused.to_string();
        assert!(matches!(&refused, BadConfig::Value { key: named, .. } if named == key), "{key} = {value}: {text}");
        assert!(text.contains("godwit.toml") && text.contains("expected"), "{text}");
        assert!(refused.remedy().starts_with(&format!("{key}: ")), "{}", refused.remedy());
    }
    for key in KEYS {
        assert!(cases.iter().any(|(named, _)| *named == key.name), "no bad value of {} is tested", key.name);
    }
}

#[test]
fn the_place_of_a_bad_value_is_named() {
    let refused = load("", &[("GODWIT_MDNS", "7")], &[]).unwrap_err().to_string();
    assert_eq!(refused, r#"variable GODWIT_MDNS: mdns = "7": expected true or false"#);
    let refused = load("", &[], &[set("mdns", "7")]).unwrap_err().to_string();
    assert!(refused.starts_with("flag --set mdns: "), "{refused}");
}

#[test]
fn an_unknown_key_is_refused_with_the_one_that_was_meant() {
    let refused = load("cpu_treshold = 5", &[], &[]).unwrap_err();
    assert!(matches!(&refused, BadConfig::Unknown { key, .. } if key == "cpu_treshold"));
    assert!(refused.remedy().contains("cpu_threshold"), "{}", refused.remedy());
    assert!(matches!(load("[section]\nx = 1", &[], &[]).unwrap_err(), BadConfig::Unknown { .. }));
    assert!(load("", &[], &[set("colour", "red")]).unwrap_err().remedy().contains("remove it"));
}

#[test]
fn a_file_that_is_absent_or_no_toml_is_named() {
    let absent = Config::load(Some(Path::new("/nonexistent/godwit.toml")), [], &[]).unwrap_err();
    assert!(absent.to_string().contains("/nonexistent/godwit.toml") && absent.remedy().contains("godwit init"));
    let broken = load("gossip_ms = = 5", &[], &[]).unwrap_err();
    assert!(matches!(broken, BadConfig::Syntax { .. }) && broken.to_string().contains("line 2"), "{broken}");
}
