//! The pipes of an engine: made when a relay carries much, kept for the next one, no more than [`MOST_PIPES`].
//!
//! Read next: `session/pair/bulk.rs`, which asks for them; `net/pipe.rs`.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Mutex;

use crate::net::pipe;
use crate::session::pair::bulk::{PIPE_BYTES, Pipe, Pipes};

/// Pipes at once; a flow that gets none copies. Each is two descriptors.
pub const MOST_PIPES: usize = 64;

/// Those that nobody holds, and how many there are in all.
#[derive(Default)]
pub(super) struct PipeRack(Mutex<Rack>);

#[derive(Default)]
struct Rack {
    free: Vec<Box<dyn Pipe>>,
    made: usize,
}

impl Pipes for PipeRack {
    fn lend(&self) -> Option<Box<dyn Pipe>> {
        let mut rack = self.0.lock().expect("no thread panics while it holds this lock");
        let free = rack.free.pop();
        if free.is_some() || rack.made == MOST_PIPES {
            return free;
        }
        let made = pipe::Pipe::new(PIPE_BYTES).ok()?;
        rack.made += 1;
        Some(Box::new(made))
    }

    fn give_back(&self, pipe: Option<Box<dyn Pipe>>) {
        let mut rack = self.0.lock().expect("no thread panics while it holds this lock");
        match pipe {
            Some(pipe) => rack.free.push(pipe),
            None => rack.made -= 1,
        }
    }
}

impl Pipe for pipe::Pipe {
    fn fill(&mut self, from: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        pipe::Pipe::fill(self, from, most)
    }

    fn drain(&mut self, to: BorrowedFd<'_>) -> io::Result<usize> {
        pipe::Pipe::drain(self, to)
    }

    fn len(&self) -> usize {
        self.held()
    }
}
