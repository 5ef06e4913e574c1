//! A stream of bytes between target and source, in two halves that two threads use.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;

/// A connection for pages. What carries it (TCP, a unix socket to whoever speaks for us) is the caller's.
pub struct Connection {
    /// What the other side sends.
    pub read: Box<dyn Read + Send>,
    /// What we send.
    pub write: Box<dyn Write + Send>,
    /// Ends both halves at once, so that a thread that waits in one of them returns.
    pub close: Close,
}

/// Ends a connection.
pub type Close = Box<dyn Fn() + Send + Sync>;

/// Makes a connection to the source; called again when one is lost.
pub type Connect = Box<dyn FnMut() -> io::Result<Connection> + Send>;

impl Connection {
    /// Over TCP, without delay for small requests.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated.
    pub fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let (read, write) = (stream.try_clone()?, stream.try_clone()?);
        let close = move || drop(stream.shutdown(Shutdown::Both));
        Ok(Self { read: Box::new(read), write: Box::new(write), close: Box::new(close) })
    }

    /// Over a unix socket.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated.
    pub fn unix(stream: UnixStream) -> io::Result<Self> {
        let (read, write) = (stream.try_clone()?, stream.try_clone()?);
        let close = move || drop(stream.shutdown(Shutdown::Both));
        Ok(Self { read: Box::new(read), write: Box::new(write), close: Box::new(close) })
    }
}
