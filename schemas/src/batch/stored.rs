//! A record checked where it lies, for whoever keeps none of it: reading back what was written a
//! moment ago must not cost as much as making it.

use super::{Damage, Header, batch_hash};
use crate::envelope::{commitment, committed, leaf};
use crate::wire::Reader;
use crate::{Error, Hash};

/// What stands in a record, every bit of which is hashed anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// What the batch says about itself.
    pub header: Header,
    /// [`Batch::hash`](super::Batch::hash).
    pub hash: Hash,
    /// The leaves of its entries.
    pub leaves: Vec<Hash>,
}

impl Stored {
    /// Checks every payload against its commitment, and the leaves against the body hash. So the
    /// entries are those that were signed, if the hash is the one of the batch that was; what they
    /// say is left to [`Batch::decode`](super::Batch::decode).
    ///
    /// # Errors
    /// [`Damage`] names the first entry that is cut short or has another payload, or the batch.
    pub fn check(record: &[u8]) -> Result<Self, Damage> {
        let at_header = |error| Damage { entry: None, error };
        let mut reader = Reader::new("batch", record);
        let header_bytes = reader.bytes().map_err(at_header)?;
        let header = Header::decode(header_bytes).map_err(at_header)?;
        let signature = reader.array().map_err(at_header)?;
        let mut leaves = Vec::with_capacity((header.count as usize).min(record.len() / 64));
        for index in 0..header.count {
            let at_entry = |error| Damage { entry: Some(index), error };
            leaves.push(entry(&mut reader).map_err(at_entry)?);
        }
        reader.end().map_err(|error| Damage { entry: header.count.checked_sub(1), error })?;
        header.check_leaves(&leaves)?;
        let hash = batch_hash(header_bytes, &signature);
        Ok(Stored { header, hash, leaves })
    }
}

/// The leaf of the entry that comes next.
fn entry(reader: &mut Reader<'_>) -> Result<Hash, Error> {
    let envelope = reader.bytes()?;
    let salt = reader.array()?;
    let payload = reader.bytes()?;
    if committed(envelope) != Some(commitment(&salt, payload)) {
        return Err(Error::Commitment);
    }
    Ok(leaf(envelope))
}
