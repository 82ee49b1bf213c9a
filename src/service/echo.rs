//! `echo`: bytes back as they came (RFC 862), and after the client's FIN all bytes, then FIN.
//!
//! With `terminator=nul` a session says one thing: everything up to and with the first NUL comes back, later bytes are
//! discarded, then FIN. Nothing is copied: both forward the bytes from the memory they came into. A datagram is answered
//! with its bytes, or with those up to and with its first NUL.

use std::sync::Arc;

use super::{BadParameter, Bounds, Entry};
use crate::session::datagram::{DatagramReply, Datagrams};
use crate::session::framing::{Found, Framer, Framing};
use crate::session::handler::{Chunks, Handler, Next, Pace, Reply, Service};
use crate::session::mailbox::Address;

pub(super) const ENTRY: Entry = Entry {
    name: "echo",
    about: "bytes back as they came; after the client's FIN all bytes, then FIN",
    schemes: &["tcp", "udp"],
    default_listeners: &[("tcp", 7007), ("udp", 7007)],
    parameters: &[("terminator", "nul")],
    spared_by_idle_timeout: false,
    repeatable: &[],
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

    fn datagrams(&self) -> Option<&dyn Datagrams> {
        Some(self)
    }
}

impl Datagrams for Echo {
    fn answer(&self, request: &[u8], reply: &mut DatagramReply<'_>) {
        let nul = if self.until_nul { request.iter().position(|&byte| byte == 0) } else { None };
        reply.put(&request[..nul.map_or(request.len(), |nul| nul + 1)]);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::session::datagram::Answer;

    type Parameters = [(&'static str, &'static str)];

    fn echo(parameters: &Parameters) -> Arc<dyn Service> {
        let parameters = parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let bounds = Bounds { max_frame_bytes: 0, max_demand: Duration::ZERO };
        ENTRY.build(&parameters.collect::<Vec<_>>(), &bounds).expect("they are its own")
    }

    #[test]
    fn a_datagram_comes_back_as_it_came() {
        let whole: Vec<u8> = (0..=255).collect();
        let table: [(&Parameters, &[u8], &[u8]); 7] = [
            (&[], b"", b""),
            (&[], b"\0", b"\0"),
            (&[], &whole, &whole),
            (&[("terminator", "nul")], b"", b""),
            (&[("terminator", "nul")], b"no end", b"no end"),
            (&[("terminator", "nul")], b"a\0b\0", b"a\0"),
            (&[("terminator", "nul")], b"\0", b"\0"),
        ];
        for (parameters, request, expected) in table {
            let service = echo(parameters);
            let datagrams = service.datagrams().expect("echo answers datagrams");
            let mut memory = vec![0xee; datagrams.bound().allowance(request.len())];
            let mut reply = DatagramReply::new(&mut memory);
            datagrams.answer(request, &mut reply);
            assert_eq!(reply.end(), Answer::Datagram(expected.len()), "{parameters:?} {request:?}");
            assert_eq!(&memory[..expected.len()], expected, "{parameters:?} {request:?}");
        }
    }
}
