//! What nodes count, as `GET /metrics` tells it.

use super::Cluster;

impl Cluster {
    /// The samples of a node whose name and labels begin so, added up.
    ///
    /// # Panics
    /// If there are none, or one of them is no whole number.
    pub fn counted(&self, number: usize, beginning: &str) -> u64 {
        self.samples(number, beginning).iter().map(|sample| sample.parse::<u64>().unwrap()).sum()
    }

    /// The same of all nodes that are awake.
    ///
    /// # Panics
    /// As [`Self::counted`].
    pub fn counted_everywhere(&self, beginning: &str) -> u64 {
        self.awake().into_iter().map(|number| self.counted(number, beginning)).sum()
    }

    /// The same of one node, of what is no whole number.
    ///
    /// # Panics
    /// If there are none.
    pub fn measured(&self, number: usize, beginning: &str) -> f64 {
        self.samples(number, beginning).iter().map(|sample| sample.parse::<f64>().unwrap()).sum()
    }

    fn samples(&self, number: usize, beginning: &str) -> Vec<String> {
        let answer = self.http.get(&self.node(number).http, "/metrics").unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.content_type.as_deref().unwrap().starts_with("text/plain; version=0.0.4"));
        let text = answer.text();
        let found = text.lines().filter(|line| line.starts_with(beginning));
        let found: Vec<String> = found.map(|line| line.rsplit_once(' ').unwrap().1.to_owned()).collect();
        assert!(!found.is_empty(), "no {beginning} in:\n{text}");
        found
    }
}
