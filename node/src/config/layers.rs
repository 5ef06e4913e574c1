//! Where settings come from, and which of them wins.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::DEFAULT_FILE;
use super::keys::{KEYS, help, nearest};

/// Variables that begin like settings and are none: they are the CLI's own.
const OTHER_VARIABLES: [&str; 3] = ["GODWIT_CONFIG", "GODWIT_API", "GODWIT_API_TOKEN"];

/// A configuration file is a few KB.
const FILE_MAX: u64 = 1024 * 1024;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody gave one.
    Default,
    /// A file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// A flag.
    Flag(String),
}

/// A setting given by a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The flag as the user wrote it.
    pub flag: String,
    /// The key.
    pub key: String,
    /// The value; elements of a list are separated by commas.
    pub value: String,
}

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum BadConfig {
    /// The file cannot be read.
    #[error("read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("{path}: not valid TOML: {source}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// There is no such setting.
    #[error("{place}: unknown key `{key}`")]
    Unknown {
        /// Where it was given.
        place: Source,
        /// The key.
        key: String,
    },
    /// The value is not one that the setting takes.
    #[error("{place}: {key} = {value}: expected {expected}")]
    Value {
        /// Where it was given.
        place: Source,
        /// The key.
        key: String,
        /// What was given.
        value: String,
        /// What is taken.
        expected: String,
    },
    /// The address is to be guessed and there is no default route.
    #[error("address: cannot be guessed, since there is no default route")]
    NoAddress,
}

impl BadConfig {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Read { path, source } if source.kind() == std::io::ErrorKind::NotFound => {
                format!("`godwit init --config {}` writes one", path.display())
            }
            Self::Read { .. } => "make it readable for the user that runs godwit".to_owned(),
            Self::Syntax { .. } => "mend that line; `godwit config --example` prints a valid file".to_owned(),
            Self::Unknown { key, .. } => match nearest(key) {
                Some(near) => format!("did you mean `{near}`? {}", help(near).unwrap_or_default()),
                None => "remove it; `godwit config --example` prints every setting".to_owned(),
            },
            Self::Value { key, .. } => format!("{key}: {}", help(key).unwrap_or_default()),
            Self::NoAddress => "set `address` to the IPv4 address at which other sites reach this one".to_owned(),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// The value of each key with its source: defaults, below the file, below variables, below flags.
pub(super) struct Layers {
    values: BTreeMap<String, (Value, Source)>,
    pub(super) warnings: Vec<String>,
}

impl Layers {
    pub(super) fn collect(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[Setting],
    ) -> Result<Self, BadConfig> {
        let mut layers = Self { values: BTreeMap::new(), warnings: Vec::new() };
        layers.add_defaults();
        layers.add_file(file)?;
        layers.add_environment(environment);
        for Setting { flag, key, value } in flags {
            layers.put(key, Value::String(value.clone()), Source::Flag(flag.clone()))?;
        }
        Ok(layers)
    }

    fn add_defaults(&mut self) {
        for key in KEYS {
            let table: Table = format!("value = {}", key.default).parse().expect("defaults are TOML, as a test checks");
            let value = table.get("value").expect("just written").clone();
            self.values.insert(key.name.to_owned(), (value, Source::Default));
        }
    }

    fn add_file(&mut self, file: Option<&Path>) -> Result<(), BadConfig> {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        let text = match read_bounded(path) {
            Ok(text) => text,
            Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(BadConfig::Read { path: path.to_owned(), source }),
        };
        let table: Table =
            text.parse().map_err(|error| BadConfig::Syntax { path: path.to_owned(), source: Box::new(error) })?;
        table.into_iter().try_for_each(|(key, value)| self.put(&key, value, Source::File(path.to_owned())))
    }

    /// An unknown variable only warns: the prefix is not ours alone.
    fn add_environment(&mut self, environment: impl IntoIterator<Item = (String, String)>) {
        for (name, value) in environment {
            let Some(key) = name.strip_prefix("GODWIT_") else { continue };
            if OTHER_VARIABLES.contains(&name.as_str()) {
                continue;
            }
            let key = key.to_ascii_lowercase();
            if self.put(&key, Value::String(value), Source::Variable(name.clone())).is_err() {
                let near = nearest(&key).map(|near| format!(", did you mean GODWIT_{}?", near.to_uppercase()));
                self.warnings.push(format!("variable {name} is no setting{}", near.unwrap_or_default()));
            }
        }
    }

    fn put(&mut self, key: &str, value: Value, place: Source) -> Result<(), BadConfig> {
        match self.values.get_mut(key) {
            Some(slot) => {
                *slot = (value, place);
                Ok(())
            }
            None => Err(BadConfig::Unknown { place, key: key.to_owned() }),
        }
    }

    /// A key's value, read by `parse`, whose refusal says what it expects.
    pub(super) fn get<T>(&self, key: &str, parse: impl FnOnce(&Value) -> Result<T, String>) -> Result<T, BadConfig> {
        let (value, _) = &self.values[key];
        parse(value).map_err(|expected| self.refuse(key, &expected))
    }

    /// The refusal of a key's value.
    pub(super) fn refuse(&self, key: &str, expected: &str) -> BadConfig {
        let (value, place) = &self.values[key];
        let mut text: String = value.to_string().chars().take(200).collect();
        text.retain(|c| !c.is_control());
        BadConfig::Value { place: place.clone(), key: key.to_owned(), value: text, expected: expected.to_owned() }
    }
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    use std::io::Read;

    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_MAX).read_to_string(&mut text)?;
    Ok(text)
}
