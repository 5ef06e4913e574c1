//! The genesis file: a mesh's founding document as TOML or JSON. The mesh's id is the hash of its content, not of the
//! file, so both forms found the same mesh.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use godwit_ledger::genesis::{BadGenesis, Genesis};

/// 256 founders with 8 addresses each have some 700 KB.
const FILE_MAX: u64 = 2 * 1024 * 1024;

/// Why a genesis file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum BadGenesisFile {
    /// It cannot be read.
    #[error("read the genesis {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It cannot be written.
    #[error("write the genesis {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no genesis.
    #[error("{path} is no genesis: {reason}")]
    Content {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// It founds no mesh.
    #[error("{path} founds no mesh: {source}")]
    Founds {
        /// The file.
        path: PathBuf,
        /// Why.
        source: BadGenesis,
    },
}

impl BadGenesisFile {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Read { source, path } if source.kind() == io::ErrorKind::NotFound => {
                format!("copy the mesh's genesis to {}; `godwit genesis create` founds a new mesh", path.display())
            }
            Self::Read { .. } => "make it readable for the user that runs godwit".to_owned(),
            Self::Write { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => {
                "it exists and is never overwritten: name another with `--out`".to_owned()
            }
            Self::Write { .. } => "make its folder writable, or name another with `--out`".to_owned(),
            Self::Content { .. } | Self::Founds { .. } => {
                "copy it from a site of the mesh again, and compare `godwit genesis show` on both".to_owned()
            }
        }
    }
}

/// Reads and checks a genesis file: JSON if it begins with `{`, else TOML.
///
/// # Errors
/// [`BadGenesisFile`] says what is wrong with it.
pub fn read(path: &Path) -> Result<Genesis, BadGenesisFile> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(FILE_MAX).read_to_string(&mut text))
        .map_err(|source| BadGenesisFile::Read { path: path.to_owned(), source })?;
    let genesis = parse(&text).map_err(|reason| BadGenesisFile::Content { path: path.to_owned(), reason })?;
    genesis.check().map_err(|source| BadGenesisFile::Founds { path: path.to_owned(), source })?;
    Ok(genesis)
}

/// The genesis in a file's text, not yet checked.
///
/// # Errors
/// What about the text is not a genesis.
pub fn parse(text: &str) -> Result<Genesis, String> {
    if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| error.to_string())
    } else {
        toml::from_str(text).map_err(|error| error.to_string())
    }
}

/// The genesis as TOML, with its mesh id for people to compare.
#[must_use]
pub fn to_toml(genesis: &Genesis) -> String {
    let body = toml::to_string(genesis).expect("a genesis has string keys and integers below 2^63 only");
    format!(
        "# A Godwit mesh. The same on all its sites: any change makes another mesh.\n# mesh {}\n\n{body}",
        genesis.mesh()
    )
}

/// Writes a genesis to a new file: JSON if its name ends in `.json`, else TOML.
///
/// # Errors
/// [`BadGenesisFile::Write`] if the file exists or cannot be written.
pub fn write_new(path: &Path, genesis: &Genesis) -> Result<(), BadGenesisFile> {
    let json = path.extension().is_some_and(|extension| extension == "json");
    let text = if json {
        serde_json::to_string_pretty(genesis).expect("a genesis has string keys only") + "\n"
    } else {
        to_toml(genesis)
    };
    File::create_new(path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(|source| BadGenesisFile::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use godwit_protocol::bounded::{List, Text};
    use godwit_protocol::membership::{Member, Role};
    use godwit_protocol::{Address, SiteId, Time};

    use super::*;

    fn genesis() -> Genesis {
        let mut sites = [1_u8, 2, 3, 4].map(|n| SiteId::from(SigningKey::from_bytes(&[n; 32]).verifying_key()));
        sites.sort();
        let member = |site| Member {
            site,
            role: Role::Validator,
            name: Text::clipped("porto"),
            addresses: List::first([Text::clipped("/ip4/192.0.2.7/tcp/4101")]),
        };
        Genesis {
            name: Text::clipped("harbour"),
            founded: Time(1_790_000_000_000),
            network: Address([10, 77, 0, 0].into()),
            prefix: 16,
            clock_bound_ms: 500,
            members: List::first(sites.map(member)),
        }
    }

    #[test]
    fn both_forms_found_the_same_mesh() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["genesis.toml", "genesis.json"] {
            let path = dir.path().join(name);
            write_new(&path, &genesis()).unwrap();
            let back = read(&path).unwrap();
            assert_eq!(back, genesis());
            assert_eq!(back.mesh(), genesis().mesh());
            assert!(matches!(write_new(&path, &genesis()), Err(BadGenesisFile::Write { .. })));
        }
    }

    #[test]
    fn a_file_that_founds_no_mesh_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("genesis.toml");
        assert!(matches!(read(&path), Err(BadGenesisFile::Read { .. })));
        std::fs::write(&path, to_toml(&genesis()).replace("prefix = 16", "prefix = 31")).unwrap();
        assert!(matches!(read(&path), Err(BadGenesisFile::Founds { .. })));
        std::fs::write(&path, to_toml(&genesis()).replace("prefix", "praefix")).unwrap();
        let refused = read(&path).unwrap_err();
        assert!(refused.to_string().contains("prefix"), "{refused}");
    }
}
