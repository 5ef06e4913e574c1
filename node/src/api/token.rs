//! The bearer token that guards the API on loopback, where every local user could connect.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::fault::{Fault, Kind};

/// Shorter ones can be guessed; `godwit init` writes 64 hexadecimal digits.
const SHORTEST: usize = 32;

/// A token file is one line.
const LONGEST: usize = 1024;

/// A token, kept as its hash: hashes are compared in constant time, and a core dump does not show it.
#[derive(Clone, Copy)]
pub struct Token(blake3::Hash);

/// Why a token file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum BadToken {
    /// It cannot be read.
    #[error("read the token file {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Others could read it.
    #[error("the token file {0} can be read by others (mode {1:03o}); `chmod 600` it")]
    Open(PathBuf, u32),
    /// It can be guessed, or is no token at all.
    #[error("the token file {0} holds {1} characters; a token is one line of {SHORTEST} to {LONGEST}")]
    Length(PathBuf, usize),
}

impl Token {
    /// The token itself.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(blake3::hash(text.as_bytes()))
    }

    /// Reads a token file.
    ///
    /// # Errors
    /// [`BadToken`] if it cannot be read, others can read it, or it is too short.
    pub fn read(path: &Path) -> Result<Self, BadToken> {
        let unreadable = |source| BadToken::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(BadToken::Open(path.to_owned(), mode));
        }
        let mut text = String::new();
        file.take(LONGEST as u64 + 2).read_to_string(&mut text).map_err(unreadable)?;
        let text = text.trim();
        if !(SHORTEST..=LONGEST).contains(&text.len()) || text.contains('\n') {
            return Err(BadToken::Length(path.to_owned(), text.len()));
        }
        Ok(Self::new(text))
    }

    /// Writes a new random token to a file that only its owner can read.
    ///
    /// # Errors
    /// If the file exists or cannot be written.
    pub fn write_new(path: &Path) -> std::io::Result<()> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;

        let token: [u8; 32] = rand::random();
        let text: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        writeln!(file, "{text}")?;
        file.sync_all()
    }

    fn admits(&self, request: &Request) -> bool {
        let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        // `blake3::Hash` compares in constant time.
        given
            .and_then(|value| value.strip_prefix("Bearer "))
            .is_some_and(|text| blake3::hash(text.as_bytes()) == self.0)
    }
}

/// Middleware: lets a request pass that carries the token.
pub async fn require(State(token): State<Token>, request: Request, next: Next) -> Response {
    if token.admits(&request) {
        return next.run(request).await;
    }
    Fault::new(Kind::Unauthorized, "the bearer token is missing or wrong")
        .remedy("send the header `authorization: Bearer TOKEN` with the content of the site's token file")
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token_file(content: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn a_written_token_is_read_back_and_admits_its_bearer_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        Token::write_new(&path).unwrap();
        let token = Token::read(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap().trim().to_owned();
        let request = |value: String| Request::builder().header(AUTHORIZATION, value).body(().into()).unwrap();
        assert!(token.admits(&request(format!("Bearer {text}"))));
        assert!(!token.admits(&request(format!("Bearer {text}0"))));
        assert!(!token.admits(&request(text)));
        assert!(Token::write_new(&path).is_err(), "a token is never overwritten");
    }

    #[test]
    fn a_token_file_that_others_read_or_that_holds_no_token_is_refused() {
        let good = "0123456789abcdef0123456789abcdef\n";
        let (_dir, path) = token_file(good, 0o644);
        assert!(matches!(Token::read(&path), Err(BadToken::Open(_, 0o644))));
        for content in ["", "short", &format!("{good}{good}"), &"a".repeat(LONGEST + 1)] {
            let (_dir, path) = token_file(content, 0o600);
            assert!(matches!(Token::read(&path), Err(BadToken::Length(..))), "{content}");
        }
    }
}
