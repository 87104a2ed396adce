//! What the whole cluster is told under keys, such as which schema is in force: put by any node, read by each from its own memory.

use serde::Serialize;
use serde::de::DeserializeOwned;
use tumen_core::names::{ClaimNumber, Name};

use super::Node;
use crate::error::{Error, Result};

impl Node {
    /// Tells the cluster something under a key: any serde type that can be JSON, of at most
    /// [`VALUE_LEN_MAX`](crate::names::VALUE_LEN_MAX) bytes as such. It replaces what was told there. Writes of one key have one order;
    /// once this returns, this node reads it, and the others a moment later ([`Node::await_visible`] with the key waits for all).
    ///
    /// Keys are as names are, in a space of their own: nobody holds them, no name collides with one, and what is told stays until it
    /// is deleted, whoever comes and goes. Meant for little that is read much; all nodes keep all of it.
    ///
    /// ```no_run
    /// # use tumen::prelude::*;
    /// # async fn tell(node: &Node) -> Result<()> {
    /// node.put_meta("schema", &7_u32).await?;
    /// assert_eq!(node.get_meta::<u32>("schema")?, Some(7));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::BadName`]; [`Error::Call`] where it cannot be JSON; [`Error::Name`] where it is too long, there is no room for more, or
    /// the key's directory could not be asked. To do it again does no harm.
    pub async fn put_meta<T: Serialize + Sync + ?Sized>(
        &self,
        key: impl AsRef<[u8]>,
        value: &T,
    ) -> Result<ClaimNumber> {
        let key = Name::new(key)?;
        let json = serde_json::to_vec(value)
            .map_err(|why| Error::rejected(format!("what is told under {key} cannot be JSON: {why}")))?;
        Ok(self.names().put_meta(&key, json.into(), self.config().call_deadline).await?)
    }

    /// What the cluster is told under a key, as far as this node knows: a local read. `None`: nothing.
    ///
    /// # Errors
    /// [`Error::BadName`]; [`Error::Call`] where it is something else than a `T`.
    pub fn get_meta<T: DeserializeOwned>(&self, key: impl AsRef<[u8]>) -> Result<Option<T>> {
        let key = Name::new(key)?;
        let told = self.names().meta(&key);
        let read = told.map(|meta| serde_json::from_slice(&meta.value)).transpose();
        read.map_err(|why| Error::rejected(format!("what is told under {key} is something else: {why}")))
    }

    /// Tells the cluster nothing more under a key. Whether it was told something.
    ///
    /// # Errors
    /// [`Error::BadName`]; [`Error::Name`] where the key's directory could not be asked.
    pub async fn delete_meta(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = Name::new(key)?;
        Ok(self.names().remove_meta(&key, self.config().call_deadline).await?)
    }
}
