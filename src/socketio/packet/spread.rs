//! How many arguments a value is: tuples spread, unit is nothing, the rest is one.

use std::fmt;

use serde::Serialize;
use serde::ser::{self, Impossible};

/// How a value stands in the list of arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// No argument at all: `()` and unit structs.
    Nothing,
    /// One argument.
    One,
    /// Each element is an argument: tuples, tuple structs, `[T; N]`.
    Spread,
}

impl Shape {
    /// Asks the value by starting to serialize it; costs one call, nothing is written.
    pub(super) fn of<T: Serialize + ?Sized>(value: &T) -> Self {
        match value.serialize(Probe) {
            // `serde_json::Value::Null` calls itself a unit, too, but is one argument.
            Ok(Self::Nothing) if size_of_val(value) > 0 => Self::One,
            Ok(shape) | Err(Answer(shape)) => shape,
        }
    }
}

/// Stops at the first call. `socketioxide_core::parser::is_ser_tuple` is the same idea, but takes
/// every newtype for a tuple.
struct Probe;

/// The answer where serde wants a compound serializer for `Ok`. A failing `Serialize` counts as one
/// argument; the real serializer will meet the failure again and report it.
#[derive(Debug)]
struct Answer(Shape);

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::error::Error for Answer {}

impl ser::Error for Answer {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(Shape::One)
    }
}

macro_rules! one_argument {
    ($($method:ident($kind:ty))*) => {
        $(fn $method(self, _: $kind) -> Result<Shape, Answer> { Ok(Shape::One) })*
    };
}

type No = Impossible<Shape, Answer>;

impl ser::Serializer for Probe {
    type Ok = Shape;
    type Error = Answer;
    type SerializeSeq = No;
    type SerializeTuple = No;
    type SerializeTupleStruct = No;
    type SerializeTupleVariant = No;
    type SerializeMap = No;
    type SerializeStruct = No;
    type SerializeStructVariant = No;

    one_argument! {
        serialize_bool(bool) serialize_i8(i8) serialize_i16(i16) serialize_i32(i32)
        serialize_i64(i64) serialize_i128(i128) serialize_u8(u8) serialize_u16(u16)
        serialize_u32(u32) serialize_u64(u64) serialize_u128(u128) serialize_f32(f32)
        serialize_f64(f64) serialize_char(char) serialize_str(&str) serialize_bytes(&[u8])
    }

    fn serialize_none(self) -> Result<Shape, Answer> {
        Ok(Shape::One)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<Shape, Answer> {
        Ok(Shape::One)
    }

    fn serialize_unit(self) -> Result<Shape, Answer> {
        Ok(Shape::Nothing)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<Shape, Answer> {
        Ok(Shape::Nothing)
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
    ) -> Result<Shape, Answer> {
        Ok(Shape::One)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<Shape, Answer> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<Shape, Answer> {
        Ok(Shape::One)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<No, Answer> {
        Err(Answer(Shape::One))
    }

    fn serialize_tuple(self, _: usize) -> Result<No, Answer> {
        Err(Answer(Shape::Spread))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<No, Answer> {
        Err(Answer(Shape::Spread))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<No, Answer> {
        Err(Answer(Shape::One))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<No, Answer> {
        Err(Answer(Shape::One))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<No, Answer> {
        Err(Answer(Shape::One))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<No, Answer> {
        Err(Answer(Shape::One))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuples_spread_and_newtypes_are_transparent() {
        #[derive(Serialize)]
        struct New<T>(T);
        #[derive(Serialize)]
        struct Two(u8, u8);
        #[derive(Serialize)]
        struct Unit;
        assert_eq!(Shape::of(&(1, 2)), Shape::Spread);
        assert_eq!(Shape::of(&[1, 2]), Shape::Spread);
        assert_eq!(Shape::of(&Two(1, 2)), Shape::Spread);
        assert_eq!(Shape::of(&New((1, 2))), Shape::Spread);
        assert_eq!(Shape::of(&New("x")), Shape::One);
        assert_eq!(Shape::of(&New(vec![1])), Shape::One);
        assert_eq!(Shape::of(&vec![1]), Shape::One);
        assert_eq!(Shape::of(&Some((1, 2))), Shape::One);
        assert_eq!(Shape::of("x"), Shape::One);
        assert_eq!(Shape::of(&()), Shape::Nothing);
        assert_eq!(Shape::of(&Unit), Shape::Nothing);
        assert_eq!(Shape::of(&New(())), Shape::Nothing);
        assert_eq!(Shape::of(&serde_json::Value::Null), Shape::One);
        assert_eq!(Shape::of(&None::<u8>), Shape::One);
    }
}
