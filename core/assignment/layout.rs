//! The map itself: for each partition the nodes that hold it, the primary first.
//!
//! ```text
//! nodes    [ a, b, c, d ]           sorted, no name twice
//! copies   [ 0 2 │ 1 3 │ 2 0 ]      indices into nodes, all rows one after the other
//! ends     [   2     4     6 ]
//! ```

use serde::{Deserialize, Serialize};

use crate::ids::NodeName;

/// A map of partitions to nodes. Rows are stored flat: 65,536 partitions of three copies are one megabyte.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Raw")]
pub struct Layout {
    nodes: Vec<NodeName>,
    ends: Vec<u32>,
    copies: Vec<u32>,
}

/// A layout as it is read, before it is trusted.
#[derive(Deserialize)]
struct Raw {
    nodes: Vec<NodeName>,
    ends: Vec<u32>,
    copies: Vec<u32>,
}

/// Bytes that were read are no layout. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Node names are not sorted, or one is there twice.
    #[error("a layout's nodes are not sorted and unique")]
    Nodes,
    /// The rows' ends do not rise, or do not end where the copies end.
    #[error("a layout's rows do not fit its copies")]
    Rows,
    /// A copy is on a node that is not in the list.
    #[error("a layout names a node that it does not list")]
    Copies,
}

impl TryFrom<Raw> for Layout {
    type Error = LayoutError;

    fn try_from(raw: Raw) -> Result<Self, LayoutError> {
        if !raw.nodes.is_sorted_by(|a, b| a < b) {
            return Err(LayoutError::Nodes);
        }
        if !raw.ends.is_sorted() || raw.ends.last().map_or(0, |end| *end as usize) != raw.copies.len() {
            return Err(LayoutError::Rows);
        }
        if raw.copies.iter().any(|node| *node as usize >= raw.nodes.len()) {
            return Err(LayoutError::Copies);
        }
        Ok(Self { nodes: raw.nodes, ends: raw.ends, copies: raw.copies })
    }
}

impl Layout {
    /// A map without rows over these nodes, which are sorted and de-duplicated first: rows are indices into
    /// [`Self::nodes`] as it stands after that (see [`Self::index_of`]).
    pub fn new(mut nodes: Vec<NodeName>) -> Self {
        if !nodes.is_sorted_by(|a, b| a < b) {
            nodes.sort();
            nodes.dedup();
        }
        Self { nodes, ends: Vec::new(), copies: Vec::new() }
    }

    /// A map from rows of names, the primary first: what tests and readers of snapshots have at hand.
    pub fn from_names<R: AsRef<[NodeName]>>(rows: &[R]) -> Self {
        let mut layout = Self::new(rows.iter().flat_map(|row| row.as_ref()).cloned().collect());
        let mut indices = Vec::new();
        for row in rows {
            indices.clear();
            indices.extend(row.as_ref().iter().filter_map(|name| layout.index_of(name)));
            layout.push_row(&indices);
        }
        layout
    }

    /// Makes room for `rows` more rows of `copies` copies each.
    pub fn reserve(&mut self, rows: usize, copies: usize) {
        self.ends.reserve(rows);
        self.copies.reserve(rows.saturating_mul(copies));
    }

    /// Adds the next partition's copies, the primary first. Nothing is checked here: [`check`] does.
    ///
    /// [`check`]: crate::assignment::check
    ///
    /// # Panics
    /// When the map would hold more than 2³² copies.
    pub fn push_row(&mut self, row: &[u32]) {
        self.copies.extend_from_slice(row);
        self.ends.push(u32::try_from(self.copies.len()).expect("a layout holds at most 2^32 copies"));
    }

    /// The nodes that rows speak of: sorted, no name twice. A node may hold nothing.
    pub fn nodes(&self) -> &[NodeName] {
        &self.nodes
    }

    /// Where in [`Self::nodes`] this node stands.
    pub fn index_of(&self, node: &NodeName) -> Option<u32> {
        self.nodes.binary_search(node).ok().and_then(|at| u32::try_from(at).ok())
    }

    /// How many partitions.
    pub const fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no partition.
    pub const fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// A partition's copies as indices into [`Self::nodes`], the primary first. Empty if there is none such.
    pub fn row(&self, partition: u32) -> &[u32] {
        let partition = partition as usize;
        let Some(end) = self.ends.get(partition) else { return &[] };
        let start = if partition == 0 { 0 } else { self.ends[partition - 1] };
        &self.copies[start as usize..*end as usize]
    }

    /// All rows in the partitions' order.
    pub fn rows(&self) -> impl Iterator<Item = &[u32]> {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts.zip(&self.ends).map(|(start, end)| &self.copies[*start as usize..*end as usize])
    }

    /// A partition's copies by name, the primary first.
    pub fn names(&self, partition: u32) -> impl Iterator<Item = &NodeName> {
        self.row(partition).iter().filter_map(|node| self.nodes.get(*node as usize))
    }

    /// Who is primary of a partition, if anybody is.
    pub fn primary(&self, partition: u32) -> Option<&NodeName> {
        self.names(partition).next()
    }

    /// How many partitions each node of [`Self::nodes`] is primary of.
    pub fn primaries_per_node(&self) -> Vec<u32> {
        self.count(self.rows().filter_map(<[u32]>::first))
    }

    /// How many copies, primaries included, each node of [`Self::nodes`] holds.
    pub fn copies_per_node(&self) -> Vec<u32> {
        self.count(self.copies.iter())
    }

    fn count<'a>(&self, copies: impl Iterator<Item = &'a u32>) -> Vec<u32> {
        let mut counts = vec![0; self.nodes.len()];
        for node in copies {
            if let Some(count) = counts.get_mut(*node as usize) {
                *count += 1;
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<NodeName> {
        text.split_whitespace().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn rows_are_read_back_by_index_and_by_name() {
        let mut layout = Layout::new(names("c a b a"));
        assert_eq!(layout.nodes(), names("a b c"));
        layout.push_row(&[2, 0]);
        layout.push_row(&[]);
        layout.push_row(&[1]);
        assert_eq!(
            (layout.row(0), layout.row(1), layout.row(2), layout.row(9)),
            (&[2, 0][..], &[][..], &[1][..], &[][..])
        );
        assert_eq!(layout.rows().map(<[u32]>::len).collect::<Vec<_>>(), [2, 0, 1]);
        assert_eq!(layout.names(0).cloned().collect::<Vec<_>>(), names("c a"));
        assert_eq!((layout.primary(0), layout.primary(1)), (Some(&names("c")[0]), None));
        assert_eq!((layout.primaries_per_node(), layout.copies_per_node()), (vec![0, 1, 1], vec![1, 1, 1]));
        assert_eq!(Layout::from_names(&[names("c a"), vec![], names("b")]), layout);
    }

    #[test]
    fn what_is_read_is_checked_first() {
        let mut layout = Layout::new(names("a b"));
        layout.push_row(&[1, 0]);
        let text = serde_json::to_string(&layout).unwrap();
        assert_eq!(serde_json::from_str::<Layout>(&text).unwrap(), layout);
        for bad in [
            r#"{"nodes":["b","a"],"ends":[],"copies":[]}"#,
            r#"{"nodes":["a","a"],"ends":[],"copies":[]}"#,
            r#"{"nodes":["a"],"ends":[1],"copies":[]}"#,
            r#"{"nodes":["a"],"ends":[],"copies":[0]}"#,
            r#"{"nodes":["a"],"ends":[1,0,1],"copies":[0]}"#,
            r#"{"nodes":["a"],"ends":[1],"copies":[1]}"#,
        ] {
            assert!(serde_json::from_str::<Layout>(bad).is_err(), "{bad}");
        }
    }
}
