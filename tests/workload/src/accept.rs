//! One thread for each connection, and a bound on their number.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// More than a test opens at once; a connection beyond it is closed unanswered.
const CONNECTIONS_MAX: usize = 256;
/// Threads hold a few lines of text: a small stack keeps the checkpoint small.
const STACK_BYTES: usize = 128 * 1024;

/// Serves every connection by `handler`, in a thread of its own, forever.
pub fn forever(listener: &TcpListener, handler: impl Fn(TcpStream) + Send + Sync + 'static) -> ! {
    let handler = Arc::new(handler);
    loop {
        let Ok((stream, _)) = listener.accept() else {
            // The client is gone again, or descriptors are short for the moment.
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        // Every running connection holds one more reference.
        if Arc::strong_count(&handler) > CONNECTIONS_MAX {
            continue;
        }
        let handler = Arc::clone(&handler);
        // When no thread can be had the connection is dropped with the closure: the client sees it closed.
        let _ = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || handler(stream));
    }
}
