//! A thread beside the others that waits for changes of a cell: for those who wait in other ways, and are to be told.

use std::io;
use std::thread::Builder;
use std::time::Duration;

/// How long one step may wait: whoever is to end the thread waits no longer.
const STEP: Duration = Duration::from_secs(1);

/// Address space of its stack. A step reads a version and posts notes.
const STACK_BYTES: usize = 128 << 10;

/// Starts a thread that takes `step` after step until it returns false. Each is told how long it may wait.
///
/// # Errors
/// When the thread cannot be had.
pub fn start_observer(mut step: impl FnMut(Duration) -> bool + Send + 'static) -> io::Result<()> {
    let body = move || while step(STEP) {};
    Builder::new().name("observer".to_owned()).stack_size(STACK_BYTES).spawn(body).map(drop)
}
