//! Who is in which room: a two-way index over the sockets of one namespace.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, DefaultHasher};

use slab::Slab;

use crate::cluster::message::Target;
use crate::engine::packet::Str;

/// The sockets of a room, by their keys. These are our own and need no secret hash: so that what is sent to
/// many goes out in an order that does not change from run to run.
type Members = HashSet<usize, BuildHasherDefault<DefaultHasher>>;

#[derive(Debug)]
struct Member<T> {
    id: Str,
    value: T,
    rooms: Vec<Str>,
    /// The select in which this member was chosen or excluded last, so that nobody is chosen twice.
    seen: u64,
}

/// The index. `T` is a cheap handle of a socket.
///
/// Every socket is in the room of its own id and stays there; as in Node, other sockets may join that
/// room, too. An empty room costs nothing.
#[derive(Debug)]
pub(crate) struct Rooms<T> {
    members: Slab<Member<T>>,
    ids: HashMap<Str, usize>,
    rooms: HashMap<Str, Members>,
    selects: u64,
}

impl<T> Default for Rooms<T> {
    fn default() -> Self {
        Self { members: Slab::new(), ids: HashMap::new(), rooms: HashMap::new(), selects: 0 }
    }
}

impl<T: Clone> Rooms<T> {
    pub(crate) fn insert(&mut self, id: Str, value: T) {
        let key = self.members.insert(Member { id: id.clone(), value, rooms: Vec::new(), seen: 0 });
        let before = self.ids.insert(id, key);
        assert!(before.is_none(), "socket ids are unique in a namespace");
    }

    /// Takes a socket out; gives the rooms it was in, its own among them.
    pub(crate) fn remove(&mut self, id: &Str) -> Option<Vec<Str>> {
        let key = self.ids.remove(id)?;
        let member = self.members.remove(key);
        for room in &member.rooms {
            self.empty_one(room, key);
        }
        let mut rooms = member.rooms;
        rooms.insert(0, member.id);
        self.give_back();
        Some(rooms)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(crate) fn value(&self, id: &str) -> Option<&T> {
        self.ids.get(id).map(|key| &self.members[*key].value)
    }

    /// Puts one socket into rooms. Unknown ids are ignored: the socket is gone.
    pub(crate) fn join(&mut self, id: &str, rooms: &[Str]) {
        let Some(&key) = self.ids.get(id) else { return };
        let member = &mut self.members[key];
        for room in rooms {
            if room.as_str() != id && !member.rooms.contains(room) {
                member.rooms.push(room.clone());
                self.rooms.entry(room.clone()).or_default().insert(key);
            }
        }
    }

    pub(crate) fn leave(&mut self, id: &str, rooms: &[Str]) {
        let Some(&key) = self.ids.get(id) else { return };
        for room in rooms {
            let joined = &mut self.members[key].rooms;
            if let Some(at) = joined.iter().position(|joined| joined == room) {
                joined.swap_remove(at);
                self.empty_one(room, key);
            }
        }
    }

    /// The rooms of one socket, its own first.
    pub(crate) fn rooms_of(&self, id: &str) -> Vec<Str> {
        let Some(&key) = self.ids.get(id) else {
            return Vec::new();
        };
        let member = &self.members[key];
        std::iter::once(&member.id).chain(&member.rooms).cloned().collect()
    }

    /// The rooms that one socket has joined.
    pub(crate) fn joined(&self, id: &str) -> &[Str] {
        self.ids.get(id).map_or(&[], |&key| &self.members[key].rooms)
    }

    /// Could anyone be meant? Does not look at the exceptions.
    pub(crate) fn may_have(&self, target: &Target) -> bool {
        if target.rooms.is_empty() {
            return !self.members.is_empty();
        }
        let known = |room: &Str| self.rooms.contains_key(room) || self.ids.contains_key(room);
        target.rooms.iter().any(known)
    }

    /// Everyone a target means, each once.
    pub(crate) fn select(&mut self, target: &Target) -> Vec<T> {
        self.selects += 1;
        let now = self.selects;
        for room in &target.except {
            for key in keys(&self.rooms, &self.ids, room) {
                self.members[key].seen = now;
            }
        }
        if target.rooms.is_empty() {
            let everyone = self.members.iter().filter(|(_, member)| member.seen != now);
            return everyone.map(|(_, member)| member.value.clone()).collect();
        }
        let mut chosen = Vec::new();
        for room in &target.rooms {
            for key in keys(&self.rooms, &self.ids, room) {
                let member = &mut self.members[key];
                if member.seen != now {
                    member.seen = now;
                    chosen.push(member.value.clone());
                }
            }
        }
        chosen
    }

    fn empty_one(&mut self, room: &Str, key: usize) {
        if let Some(members) = self.rooms.get_mut(room) {
            members.remove(&key);
            if members.is_empty() {
                self.rooms.remove(room);
            } else if is_sparse(members.len(), members.capacity()) {
                members.shrink_to(members.len() * 2);
            }
        }
    }

    /// Gives back the room of those who are gone, when they were most. The members keep their places, which are in
    /// one piece, until the last has left.
    fn give_back(&mut self) {
        if self.members.is_empty() {
            self.members = Slab::new();
            self.ids.shrink_to_fit();
            self.rooms.shrink_to_fit();
        }
        if is_sparse(self.ids.len(), self.ids.capacity()) {
            self.ids.shrink_to(self.ids.len() * 2);
        }
        if is_sparse(self.rooms.len(), self.rooms.capacity()) {
            self.rooms.shrink_to(self.rooms.len() * 2);
        }
    }
}

/// Room that a table keeps.
const KEPT_ROOM: usize = 8;

/// Is so little left in a table that copying it is paid for by those who have left?
fn is_sparse(len: usize, capacity: usize) -> bool {
    capacity > KEPT_ROOM && len * 4 <= capacity
}

/// The members of a room: those who joined it, and the socket whose id it is.
fn keys(rooms: &HashMap<Str, Members>, ids: &HashMap<Str, usize>, room: &Str) -> Vec<usize> {
    let joined = rooms.get(room).into_iter().flatten();
    joined.chain(ids.get(room)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn target(rooms: &[&'static str], except: &[&'static str]) -> Target {
        let list = |names: &[&'static str]| names.iter().map(|name| Str::from(*name)).collect();
        Target { rooms: list(rooms), except: list(except) }
    }

    fn three() -> Rooms<&'static str> {
        let mut rooms = Rooms::default();
        for id in ["a", "b", "c"] {
            rooms.insert(id.into(), id);
        }
        rooms.join("a", &["red".into(), "blue".into()]);
        rooms.join("b", &["red".into()]);
        rooms
    }

    fn selected(rooms: &mut Rooms<&'static str>, target: &Target) -> Vec<&'static str> {
        let mut chosen = rooms.select(target);
        chosen.sort_unstable();
        chosen
    }

    #[test]
    fn everyone_rooms_and_exceptions() {
        let mut rooms = three();
        for (to, except, expected) in [
            (vec![], vec![], vec!["a", "b", "c"]),
            (vec!["red"], vec![], vec!["a", "b"]),
            (vec!["red", "blue"], vec![], vec!["a", "b"]),
            (vec!["red"], vec!["blue"], vec!["b"]),
            (vec![], vec!["red"], vec!["c"]),
            (vec!["c"], vec![], vec!["c"]),
            (vec![], vec!["a"], vec!["b", "c"]),
            (vec!["nobody"], vec![], vec![]),
        ] {
            assert_eq!(selected(&mut rooms, &target(&to, &except)), expected, "{to:?} {except:?}");
        }
    }

    #[test]
    fn another_socket_may_join_the_room_of_an_id() {
        let mut rooms = three();
        rooms.join("b", &["a".into()]);
        assert_eq!(selected(&mut rooms, &target(&["a"], &[])), ["a", "b"]);
        rooms.leave("a", &["a".into()]);
        assert_eq!(selected(&mut rooms, &target(&["a"], &[])), ["a", "b"], "one's own room stays");
    }

    #[test]
    fn who_is_gone_leaves_no_room_behind() {
        let mut rooms = Rooms::default();
        let names = (0..3_030).map(|number| Str::from(format!("s{number}"))).collect::<Vec<_>>();
        for name in &names {
            rooms.insert(name.clone(), ());
            rooms.join(name, &["all".into(), format!("of {name}").into()]);
        }
        for name in &names[30..] {
            rooms.remove(name);
        }
        assert_eq!(rooms.select(&target(&["all"], &[])).len(), 30);
        let room = [rooms.ids.capacity(), rooms.rooms.capacity(), rooms.rooms["all"].capacity()];
        assert!(room.iter().all(|room| *room < 4 * 31), "{room:?}");
    }

    #[test]
    fn leaving_and_removing_leave_nothing_behind() {
        let mut rooms = three();
        rooms.leave("a", &["blue".into(), "never".into()]);
        assert_eq!(rooms.remove(&"a".into()), Some(vec!["a".into(), "red".into()]));
        assert_eq!(rooms.remove(&"a".into()), None);
        rooms.remove(&"b".into());
        rooms.remove(&"c".into());
        assert!(rooms.is_empty());
        assert!(rooms.rooms.is_empty() && rooms.ids.is_empty());
    }

    const NAMES: [&str; 6] = ["a", "b", "c", "r", "s", "t"];

    proptest! {
        /// The index against the obvious model: a map of sets.
        #[test]
        fn behaves_like_a_map_of_sets(
            ops in proptest::collection::vec((0u8..4, 0usize..3, 0usize..6), 0..60),
            to in proptest::collection::vec(0usize..6, 0..3),
            except in proptest::collection::vec(0usize..6, 0..2),
        ) {
            let mut rooms: Rooms<&'static str> = Rooms::default();
            let mut model: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
            for (op, who, room) in ops {
                let (id, room) = (NAMES[who], NAMES[room]);
                match op {
                    0 if !model.contains_key(id) => {
                        rooms.insert(id.into(), id);
                        model.insert(id, BTreeSet::from([id]));
                    }
                    1 => {
                        rooms.join(id, &[room.into()]);
                        if let Some(joined) = model.get_mut(id) { joined.insert(room); }
                    }
                    2 if room != id => {
                        rooms.leave(id, &[room.into()]);
                        if let Some(joined) = model.get_mut(id) { joined.remove(room); }
                    }
                    3 => {
                        rooms.remove(&id.into());
                        model.remove(id);
                    }
                    _ => {}
                }
            }
            let to: Vec<_> = to.into_iter().map(|i| NAMES[i]).collect();
            let except: Vec<_> = except.into_iter().map(|i| NAMES[i]).collect();
            let expected: Vec<&str> = model.iter()
                .filter(|(_, joined)| to.is_empty() || to.iter().any(|room| joined.contains(room)))
                .filter(|(_, joined)| !except.iter().any(|room| joined.contains(room)))
                .map(|(id, _)| *id)
                .collect();
            prop_assert_eq!(selected(&mut rooms, &target(&to, &except)), expected);
            for (id, joined) in &model {
                let of = rooms.rooms_of(id);
                let mut of: Vec<String> = of.iter().map(ToString::to_string).collect();
                of.sort_unstable();
                let joined: Vec<String> = joined.iter().map(ToString::to_string).collect();
                prop_assert_eq!(of, joined);
            }
        }
    }
}
