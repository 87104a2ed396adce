//! The answers of one session, by the numbers of their requests: these come nearly in order and go in order, and are never
//! further apart than the session's window.

use std::collections::VecDeque;

use super::Answer;

/// Room for so many is always kept.
const ROOM_LEN: usize = 64;

/// Sorted by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answers(VecDeque<(u64, Answer)>);

impl Answers {
    fn find(&self, number: u64) -> Result<usize, usize> {
        // Mostly it is the newest.
        match self.0.back() {
            Some((newest, _)) if *newest < number => Err(self.0.len()),
            _ => self.0.binary_search_by_key(&number, |(number, _)| *number),
        }
    }

    pub(super) fn get(&self, number: u64) -> Option<&Answer> {
        self.find(number).ok().map(|at| &self.0[at].1)
    }

    pub(super) fn insert(&mut self, number: u64, answer: Answer) {
        match self.find(number) {
            Ok(at) => self.0[at].1 = answer,
            Err(at) => self.0.insert(at, (number, answer)),
        }
    }

    /// Takes the first one, if it is below a number.
    pub(super) fn pop_below(&mut self, number: u64) -> Option<Answer> {
        let first = self.0.pop_front_if(|(first, _)| *first < number).map(|(_, answer)| answer);
        // A client that once had much under way does not hold room for it for ever.
        if self.0.capacity() > ROOM_LEN && self.0.len() < self.0.capacity() / 4 {
            self.0.shrink_to(self.0.len() * 2);
        }
        first
    }

    pub(super) fn below(&self, number: u64) -> impl Iterator<Item = &Answer> {
        self.0.iter().take_while(move |(it, _)| *it < number).map(|(_, answer)| answer)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(u64, Answer)> {
        self.0.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn into_list(self) -> Vec<(u64, Answer)> {
        self.0.into()
    }
}

impl FromIterator<(u64, Answer)> for Answers {
    /// From anything: a later one of the same number replaces an earlier one.
    fn from_iter<I: IntoIterator<Item = (u64, Answer)>>(answers: I) -> Self {
        let mut all = Self::default();
        answers.into_iter().for_each(|(number, answer)| all.insert(number, answer));
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::partitions::identity::Position;

    fn answer(n: u64) -> Answer {
        Answer::Given { at: Position::new(crate::ids::Epoch(1), n), reply: Ok(bytes::Bytes::new()) }
    }

    #[test]
    fn room_that_is_not_needed_any_more_is_given_back() {
        let mut answers: Answers = (0..4096).map(|number| (number, answer(number))).collect();
        assert!(answers.0.capacity() >= 4096);
        while answers.pop_below(4090).is_some() {}
        assert!((6..=2 * ROOM_LEN).contains(&answers.0.capacity()), "{}", answers.0.capacity());
        assert_eq!(answers.len(), 6);
    }

    proptest! {
        #[test]
        fn they_are_as_in_a_sorted_map(steps in prop::collection::vec((0_u64..40, any::<bool>()), 1..200)) {
            let (mut answers, mut map) = (Answers::default(), BTreeMap::new());
            for (n, (number, forget)) in (0_u64..).zip(steps) {
                if forget {
                    let number = number / 4;
                    while let Some(first) = answers.pop_below(number) {
                        prop_assert_eq!(Some(first), map.pop_first().map(|(_, answer)| answer));
                    }
                    prop_assert!(map.first_key_value().is_none_or(|(first, _)| *first >= number));
                } else {
                    answers.insert(number, answer(n));
                    map.insert(number, answer(n));
                }
                prop_assert_eq!(answers.get(number), map.get(&number));
                prop_assert_eq!(answers.below(number).count(), map.range(..number).count());
                let list: Vec<_> = map.clone().into_iter().collect();
                prop_assert_eq!(answers.clone().into_list(), list.clone());
                prop_assert_eq!(list.into_iter().rev().collect::<Answers>(), answers.clone());
            }
        }
    }
}
