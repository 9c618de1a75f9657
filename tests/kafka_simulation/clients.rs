//! Clients: each input has an id, is sent again until it is answered, and sometimes twice.

use std::collections::BTreeMap;

use healwright::engine::Input;
use healwright::engine::bookkeeping::client_id;
use schemas::event::*;
use schemas::signature::{KeyPair, signature_text};
use schemas::{Actor, ActorKind, Stream};
use topologies::config::Signers;
use topologies::rules::Rules;

use crate::world::World;

const OPERATOR: &str = "operator";

#[derive(Default)]
pub(crate) struct Clients {
    n: u64,
    is_frozen: bool,
    pub(crate) unanswered: BTreeMap<String, Input>,
    /// Places that were answered, by client's id.
    pub(crate) answered: BTreeMap<String, u64>,
    /// Two answers that differ.
    pub(crate) contradiction: Option<String>,
}

impl World {
    /// What stands at the beginning of every deployment.
    pub(crate) fn configure(&mut self) {
        let keys = BTreeMap::from([(OPERATOR.to_owned(), operator().public())]);
        let body = serde_json::to_string(&Signers { keys }).unwrap();
        self.asks(&activation("signers", body));
        let body = serde_json::to_string(&Rules::current()).unwrap();
        self.asks(&activation("rules", body));
    }

    /// A client says something new: a change, or a freeze and its end by turns.
    pub(crate) fn new_input(&mut self) {
        self.clients.n += 1;
        let n = self.clients.n;
        if self.seed.one_in(3) {
            self.clients.is_frozen = !self.clients.is_frozen;
            let verb =
                if self.clients.is_frozen { FreezeVerb::Freeze } else { FreezeVerb::Unfreeze };
            self.asks(&command(verb, n));
        } else {
            self.asks(&change(n));
        }
    }

    fn asks(&mut self, input: &Input) {
        let id = client_id(&input.event).unwrap();
        self.clients.unanswered.insert(id, input.clone());
        self.put(input);
    }

    /// Somebody who heard nothing sends again under the same id.
    pub(crate) fn retry(&mut self) {
        let n = self.clients.unanswered.len() as u64;
        if n == 0 {
            return;
        }
        let at = self.seed.below(n) as usize;
        let input = self.clients.unanswered.values().nth(at).cloned().unwrap();
        self.put(&input);
    }

    fn put(&mut self, input: &Input) {
        let n_copies = match self.seed.below(8) {
            0 if !self.is_calm => 0,
            1 if !self.is_calm => 2,
            _ => 1,
        };
        let stream = input.stream();
        for _ in 0..n_copies {
            let records = self.streams.entry(stream).or_default();
            records.push(input.encode().unwrap());
            let at = records.len() - 1;
            let id = short(&client_id(&input.event).unwrap());
            self.tell(format_args!("{id} is sent and stands at {}/{at}", stream_name(stream)));
        }
    }

    /// A client is told where its input stands.
    pub(crate) fn answer(&mut self, stream: Stream, position: u64, seq: u64) {
        let Some(id) = self.id_at(stream, position) else { return };
        self.clients.unanswered.remove(&id);
        let first = *self.clients.answered.entry(id.clone()).or_insert(seq);
        self.tell(format_args!("{} is told: at {seq}", short(&id)));
        if first != seq && self.clients.contradiction.is_none() {
            let why = format!("{} was told {first} and then {seq}", short(&id));
            self.clients.contradiction = Some(why);
        }
    }
}

/// Ids of signed inputs are signatures: their beginning tells them apart.
pub(crate) fn short(id: &str) -> String {
    id.chars().take(48).collect()
}

fn operator() -> KeyPair {
    KeyPair::from_seed(&[3; 32])
}

fn human() -> Actor {
    Actor { id: OPERATOR.to_owned(), kind: ActorKind::Human, key_id: None }
}

fn activation(name: &str, body: String) -> Input {
    let config = ConfigActivated::signed(name, 1, body, OPERATOR, &operator());
    Input::new(human(), name, config)
}

fn change(n: u64) -> Input {
    let change = ChangeObserved {
        id: format!("change-{n}"),
        service: "api".to_owned(),
        kind: ChangeKind::Flag,
        version: n.to_string(),
        reference: String::new(),
        author: String::new(),
        summary: "a flag".to_owned(),
        at: None,
    };
    Input::new(Actor::system("api"), "api", change)
}

fn command(command: FreezeVerb, n: u64) -> Input {
    let mut command = FreezeCommand {
        scope: "deployment".to_owned(),
        command,
        signer_id: OPERATOR.to_owned(),
        reason: "drill".to_owned(),
        signature: String::new(),
        audit_confirmation: None,
        signers: Vec::new(),
        nonce: format!("nonce-{n}"),
    };
    let signed = operator().sign(FREEZE_DOMAIN, &command.statement());
    command.signature = signature_text(&signed);
    Input::new(human(), "deployment", command)
}
