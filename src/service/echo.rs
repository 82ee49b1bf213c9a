//! `echo`: bytes back as they came (RFC 862), and after the client's FIN all bytes, then FIN.
//!
//! With `terminator=nul` a session says one thing: everything up to and with the first NUL comes back, later bytes are
//! discarded, then FIN. Nothing is copied: both forward the bytes from the memory they came into.

use std::sync::Arc;

use super::{BadParameter, Bounds, Entry};
use crate::session::framing::{Found, Framer, Framing};
use crate::session::handler::{Chunks, Handler, Next, Pace, Reply, Service};
use crate::session::mailbox::Address;

pub(super) const ENTRY: Entry = Entry {
    name: "echo",
    about: "bytes back as they came; after the client's FIN all bytes, then FIN",
    schemes: &["tcp"],
    default_listeners: &[("tcp", 7007)],
    parameters: &[("terminator", "nul")],
    spared_by_idle_timeout: false,
    build,
};

fn build(parameters: &[(String, String)], _bounds: &Bounds) -> Result<Arc<dyn Service>, BadParameter> {
    let mut echo = Echo { until_nul: false };
    for (key, value) in parameters {
        match value.as_str() {
            "nul" => echo.until_nul = true,
            _ => {
                return Err(BadParameter { key: key.clone(), expected: "nul".to_owned() });
            }
        }
    }
    Ok(Arc::new(echo))
}

struct Echo {
    until_nul: bool,
}

impl Service for Echo {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn open(&self, _address: Option<&Address>) -> Box<dyn Handler> {
        if self.until_nul { Box::new(UntilNul) } else { Box::new(Everything) }
    }

    fn pace(&self) -> Pace {
        Pace::Brief
    }
}

/// Holds nothing, so that a session's box of it allocates nothing.
struct Everything;

impl Handler for Everything {
    fn handle_input(&mut self, input: Chunks<'_>, _reply: &mut Reply<'_>) -> Next {
        Next::Forward(input.len())
    }
}

/// Says one message and finishes.
struct UntilNul;

/// Of any length, since nothing of it is kept.
const MESSAGE: Framing = Framing::Nul { most: u32::MAX };

impl Handler for UntilNul {
    fn handle_input(&mut self, input: Chunks<'_>, _reply: &mut Reply<'_>) -> Next {
        match Framer::new(MESSAGE).find(input) {
            Found::Frame { bytes, .. } => Next::Finish { forward: bytes },
            // All of it is taken, so that the next call begins with a framer of its own.
            _ => Next::Forward(input.len()),
        }
    }
}
