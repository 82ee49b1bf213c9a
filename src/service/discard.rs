//! `discard`: everything is read and dropped (RFC 863); after the client's FIN, FIN.
//!
//! The least that a service can be: one answer. The bytes are dropped where they lie, so the ring that they came into is
//! empty again at once, and the session holds nothing between two turns. A datagram has no answer.

use std::sync::Arc;

use super::{BadParameter, Bounds, Entry};
use crate::session::datagram::{DatagramReply, Datagrams};
use crate::session::handler::{Chunks, Handler, Next, Pace, Reply, Service};
use crate::session::mailbox::Address;

pub(super) const ENTRY: Entry = Entry {
    name: "discard",
    about: "reads everything and says nothing; after the client's FIN, FIN",
    schemes: &["tcp", "udp"],
    default_listeners: &[("tcp", 7009), ("udp", 7009)],
    parameters: &[],
    spared_by_idle_timeout: false,
    repeatable: &[],
    build,
};

fn build(_parameters: &[(String, String)], _bounds: &Bounds) -> Result<Arc<dyn Service>, BadParameter> {
    Ok(Arc::new(Discard))
}

struct Discard;

impl Service for Discard {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn open(&self, _address: Option<&Address>) -> Box<dyn Handler> {
        Box::new(Discard)
    }

    fn pace(&self) -> Pace {
        Pace::Brief
    }

    fn datagrams(&self) -> Option<&dyn Datagrams> {
        Some(self)
    }
}

impl Datagrams for Discard {
    fn answer(&self, _request: &[u8], _reply: &mut DatagramReply<'_>) {}
}

impl Handler for Discard {
    fn handle_input(&mut self, input: Chunks<'_>, _reply: &mut Reply<'_>) -> Next {
        Next::Discard(input.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::datagram::Answer;

    #[test]
    fn a_datagram_has_no_answer() {
        let mut memory = [0; 8];
        let mut reply = DatagramReply::new(&mut memory);
        Discard.answer(b"anything", &mut reply);
        assert_eq!(reply.end(), Answer::Nothing);
    }
}
