//! All settings: name, default and meaning. The example file, the refusal of unknown keys and the remedies come from here.

use std::fmt::Write;

/// One setting.
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Its default as TOML.
    pub default: &'static str,
    /// What it is for, with its unit and bounds.
    pub help: &'static str,
}

const fn key(name: &'static str, default: &'static str, help: &'static str) -> Key {
    Key { name, default, help }
}

/// All of them, in the order of the example file.
pub const KEYS: &[Key] = &[
    key("data_dir", r#""/var/lib/godwit""#, "Folder for the ledger, the journal and what travels."),
    key(
        "run_dir",
        r#""/run/godwit""#,
        "Folder in memory (tmpfs) for the sockets and the state of containers that move, with a path of at most 40 bytes.",
    ),
    key("genesis", r#""/etc/godwit/genesis.toml""#, "The document that founds the mesh: the same on all sites."),
    key("key", r#""/etc/godwit/site.key""#, "The site's secret key, mode 600. `godwit init` makes it."),
    key(
        "listen",
        r#"["/ip4/0.0.0.0/udp/4101/quic-v1", "/ip4/0.0.0.0/tcp/4101"]"#,
        "Multiaddresses on which other sites reach this one, over QUIC or TCP.",
    ),
    key(
        "peers",
        "[]",
        "Multiaddresses of sites to connect to first, for example \"/ip4/192.0.2.7/udp/4101/quic-v1\". \
         Members' addresses in the ledger are tried too.",
    ),
    key("mdns", "true", "Look for sites on the local network by multicast DNS."),
    key(
        "address",
        r#""auto""#,
        "The IPv4 address to which other sites route this site's containers; \"auto\" takes that of the default route.",
    ),
    key(
        "network",
        r#""""#,
        "Your name for the network that this site is on, at most 64 bytes. Sites of one name prefer each other.",
    ),
    key("gossip_ms", "5000", "How often the site tells its capacity at least, in ms, 100 to 10000."),
    key(
        "cpu_threshold",
        "500",
        "Above this use of the processors the site offers containers, in thousandths, 1 to 1000.",
    ),
    key("memory_threshold", "500", "As above, for memory."),
    key("hysteresis", "50", "So far below its threshold a use must fall before the site is content, in thousandths."),
    key("overload_ms", "3000", "So long a threshold must be passed before containers are offered, in ms."),
    key("dwell_ms", "30000", "A container that arrived stays at least this long, in ms."),
    key("retry_ms", "30000", "So long after a fruitless offer a container is not offered again, in ms."),
    key("offer_window_ms", "1000", "How long sites may bid at most, in ms, 50 to 60000."),
    key(
        "client_threshold_dbm",
        "-95",
        "Below this signal of the serving site, in dBm, a container may follow its client to another site.",
    ),
    key("client_margin_db", "6", "By so much another site's signal must be better, in dB."),
    key(
        "ready_timeout_ms",
        "30000",
        "How long a source waits for a winner that neither is ready nor says that it prepares, in ms.",
    ),
    key(
        "prepare_timeout_ms",
        "1200000",
        "How long a source waits for a winner to be ready, whatever the winner says meanwhile, in ms.",
    ),
    key("ready_fresh_ms", "2000", "A source freezes only if the winner's `Ready` was committed less long ago, in ms."),
    key(
        "yield_timeout_ms",
        "120000",
        "How long a target that is ready waits for the frozen container's checkpoint, in ms.",
    ),
    key(
        "receipt_timeout_ms",
        "15000",
        "How long a source that has yielded waits for the receipt before it aborts, in ms, besides the time that the \
         checkpoint takes over the slowest link.",
    ),
    key("slowest_link_mbit", "16", "The slowest link to another site that a source waits for, in Mbit/s."),
    key("again_ms", "5000", "After this long without an answer a site says its word to the ledger again, in ms."),
    key(
        "retain",
        r#""all""#,
        "How many of the ledger's newest blocks are kept, 4096 or more, or \"all\". An archive, which keeps all, can be \
         audited from genesis; another site can be from its first block on. A site that keeps all fetches all: one that does \
         not is back sooner after a long absence.",
    ),
    key("docker", r#""unix:///var/run/docker.sock""#, "The container engine's socket."),
    key("api_socket", r#""/run/godwit/api.sock""#, "The socket of the local API, for the owner only (mode 600)."),
    key(
        "api_listen",
        r#""""#,
        "A loopback address for the API as well, for example \"127.0.0.1:4180\"; empty for none.",
    ),
    key("api_token_file", r#""""#, "The file with the token that the API asks for on loopback, mode 600."),
    key(
        "log",
        r#""info,arc_malachitebft_core_consensus=warn""#,
        "What is logged, for example \"info,godwit::net=debug\".",
    ),
    key("log_format", r#""text""#, "\"text\" or \"json\"."),
];

/// What a key is for.
pub(super) fn help(name: &str) -> Option<&'static str> {
    KEYS.iter().find(|key| key.name == name).map(|key| key.help)
}

/// The known key that looks most like an unknown one, if one does.
pub(super) fn nearest(unknown: &str) -> Option<&'static str> {
    let letters = |key: &Key| key.name.len() + unknown.len();
    let alike = |key: &&Key| common_letters(key.name, unknown) * 2000 / letters(key);
    KEYS.iter().max_by_key(alike).filter(|key| alike(key) >= 800).map(|key| key.name)
}

/// How many letters two words have in common, in order: enough to find a slip of the finger.
fn common_letters(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row = vec![0; b.len() + 1];
    for x in a.chars() {
        let mut diagonal = 0;
        for (index, y) in b.iter().enumerate() {
            let above = row[index + 1];
            row[index + 1] = if x == *y { diagonal + 1 } else { above.max(row[index]) };
            diagonal = above;
        }
    }
    row[b.len()]
}

/// A configuration file with every setting, commented out at its default, but for those that are given.
#[must_use]
pub fn example(given: &[(&str, String)]) -> String {
    let mut text = String::from(
        "# Godwit's configuration. Every setting is here at its default, commented out.\n\
         # A setting can also be given as a variable (GODWIT_GOSSIP_MS=5000) or a flag (--set gossip_ms=5000).\n",
    );
    for key in KEYS {
        let comment = wrapped(key.help);
        let line = match given.iter().find(|(name, _)| *name == key.name) {
            Some((name, value)) => format!("{name} = {value}"),
            None => format!("# {} = {}", key.name, key.default),
        };
        // Writing to a string does not fail.
        let _ = write!(text, "\n{comment}{line}\n");
    }
    text
}

fn wrapped(help: &str) -> String {
    let mut lines = String::new();
    let mut line = String::from("#");
    for word in help.split_whitespace() {
        if line.len() + word.len() > 100 {
            lines.push_str(&line);
            lines.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    lines + &line + "\n"
}
