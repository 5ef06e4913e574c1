//! The kept TCP connection, serving side: numbered lines, so that a client sees what a migration did to it.
//!
//! ```text
//! server: SEQ REALTIME_NS\n     every 10 ms; SEQ counts from 1 on each connection
//! client: TEXT\n                whenever it likes
//! server: echo TEXT\n           at once, in order
//! ```

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use crate::gaps::wall_clock_ns;
use crate::service::lock;

/// Time between two lines.
pub const INTERVAL: Duration = Duration::from_millis(10);
/// Of a client's line, its end included; a longer one ends the connection.
const LINE_MAX: u64 = 256;
/// A client that takes nothing for this long is gone.
const WRITE_MAX: Duration = Duration::from_secs(60);

/// Serves one connection until either side closes it.
pub fn serve(stream: TcpStream) {
    let Ok(reader) = prepare(&stream) else { return };
    let writer = Mutex::new(stream);
    thread::scope(|scope| {
        scope.spawn(|| {
            // An error ends the connection in both directions, and so the loop below.
            let _ = echo(reader, &writer);
            let _ = lock(&writer).shutdown(std::net::Shutdown::Both);
        });
        for seq in 1u64.. {
            let line = format!("{seq} {}\n", wall_clock_ns());
            if lock(&writer).write_all(line.as_bytes()).is_err() {
                break;
            }
            thread::sleep(INTERVAL);
        }
        let _ = lock(&writer).shutdown(std::net::Shutdown::Both);
    });
}

fn prepare(stream: &TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(WRITE_MAX))?;
    stream.try_clone()
}

fn echo(reader: TcpStream, writer: &Mutex<TcpStream>) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(1024, reader);
    loop {
        let mut line = b"echo ".to_vec();
        reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return Ok(());
        }
        lock(writer).write_all(&line)?;
    }
}
