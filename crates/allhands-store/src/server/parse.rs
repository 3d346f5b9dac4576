//! Requests from bytes, split anywhere. Each byte is looked at once; memory follows what arrived, not what was announced.

use crate::limits::{KEY_MAX, KEYS_MAX, REQUEST_MAX, VALUE_MAX};
use crate::meter::{BLOB_OVERHEAD, Blob, Charge, Meter};
use crate::protocol::Opcode;
use crate::server::Violation;
use std::sync::Arc;

/// One complete request.
#[derive(Debug)]
pub(crate) enum Request {
    Validate(u32),
    Set { key: Blob, value: Blob },
    CompareSet { key: Blob, expected: Blob, desired: Blob },
    Get { key: Blob },
    Add { key: Blob, delta: i64 },
    Check { keys: Vec<Blob> },
    Wait { keys: Vec<Blob> },
    NumKeys,
    DeleteKey { key: Blob },
    Append { key: Blob, value: Blob },
    MultiGet { keys: Vec<Blob> },
    MultiSet { keys: Vec<Blob>, values: Vec<Blob> },
    CancelWait,
    Ping(u32),
    QueuePush { key: Blob, value: Blob },
    QueuePop { key: Blob },
    QueueLen { key: Blob },
    ListKeys,
    Barrier { key: Blob, world: i64 },
}

/// What the next bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Opcode,
    /// Magic or nonce, 4 bytes.
    Word,
    /// Number of keys, 8 bytes.
    Count,
    KeyLength,
    Key,
    ValueLength,
    Value,
    /// Delta or world size, 8 bytes.
    Number,
    Complete,
}

#[derive(Debug)]
pub(crate) struct Parser {
    meter: Arc<Meter>,
    stage: Stage,
    opcode: Opcode,
    /// A fixed-size field on its way.
    field: [u8; 8],
    filled: usize,
    /// Keys still to come in a request with several.
    keys_left: usize,
    keys: Vec<Blob>,
    values: Vec<Blob>,
    /// A key or value on its way, its announced length, and what it is charged.
    current: Vec<u8>,
    length: usize,
    charge: Charge,
    /// Bytes charged by this request so far.
    request: usize,
    number: i64,
}

impl Parser {
    pub(crate) fn new(meter: &Arc<Meter>) -> Self {
        Self {
            meter: Arc::clone(meter),
            stage: Stage::Opcode,
            opcode: Opcode::Validate,
            field: [0; 8],
            filled: 0,
            keys_left: 0,
            keys: Vec::new(),
            values: Vec::new(),
            current: Vec::new(),
            length: 0,
            charge: Charge::none(meter),
            request: 0,
            number: 0,
        }
    }

    /// Whether the next byte begins a request.
    pub(crate) fn between_requests(&self) -> bool {
        self.stage == Stage::Opcode
    }

    /// Takes bytes off the front of `input` until one request is complete or the input is used up.
    pub(crate) fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Request>, Violation> {
        loop {
            match self.stage {
                Stage::Opcode => {
                    let Some((byte, rest)) = input.split_first() else { return Ok(None) };
                    *input = rest;
                    self.opcode =
                        Opcode::from_byte(*byte).ok_or(Violation::UnknownOperation(*byte))?;
                    self.stage = first_stage(self.opcode);
                }
                Stage::Word => {
                    if !self.take_field(4, input) {
                        return Ok(None);
                    }
                    // Only the lower half is read of it.
                    self.number = self.field_value() as i64;
                    self.stage = Stage::Complete;
                }
                Stage::Number => {
                    if !self.take_field(8, input) {
                        return Ok(None);
                    }
                    self.number = self.field_value() as i64;
                    self.stage = Stage::Complete;
                }
                Stage::Count => {
                    if !self.take_field(8, input) {
                        return Ok(None);
                    }
                    self.keys_left = within(self.field_value(), KEYS_MAX)
                        .ok_or(Violation::TooManyKeys(self.field_value()))?;
                    self.stage = self.next_key();
                }
                Stage::KeyLength => {
                    if !self.take_field(8, input) {
                        return Ok(None);
                    }
                    self.length = within(self.field_value(), KEY_MAX)
                        .ok_or(Violation::KeyTooLong(self.field_value()))?;
                    self.stage = Stage::Key;
                }
                Stage::ValueLength => {
                    if !self.take_field(8, input) {
                        return Ok(None);
                    }
                    self.length = within(self.field_value(), VALUE_MAX)
                        .ok_or(Violation::ValueTooLong(self.field_value()))?;
                    self.stage = Stage::Value;
                }
                Stage::Key => {
                    let Some(key) = self.take_blob(input)? else { return Ok(None) };
                    self.keys.push(key);
                    self.stage = self.after_key();
                }
                Stage::Value => {
                    let Some(value) = self.take_blob(input)? else { return Ok(None) };
                    self.values.push(value);
                    self.stage = self.after_value();
                }
                Stage::Complete => {
                    self.stage = Stage::Opcode;
                    self.request = 0;
                    return Ok(Some(self.assemble()));
                }
            }
        }
    }

    /// Fills `self.field`; true when its `size` bytes are there.
    fn take_field(&mut self, size: usize, input: &mut &[u8]) -> bool {
        let taken = (size - self.filled).min(input.len());
        self.field[self.filled..self.filled + taken].copy_from_slice(&input[..taken]);
        self.filled += taken;
        *input = &input[taken..];
        if self.filled < size {
            return false;
        }
        self.filled = 0;
        true
    }

    fn field_value(&self) -> u64 {
        u64::from_le_bytes(self.field)
    }

    fn take_blob(&mut self, input: &mut &[u8]) -> Result<Option<Blob>, Violation> {
        let taken = (self.length - self.current.len()).min(input.len());
        let have = self.current.len() + taken;
        let complete = have == self.length;
        if have > self.current.capacity() || complete {
            // Doubling, but never above the announced length: copying stays linear, memory follows what arrived.
            let capacity = have.max(self.current.capacity() * 2).min(self.length);
            let capacity = capacity.max(self.current.capacity());
            let before = self.charge.amount();
            self.charge.resize(capacity + BLOB_OVERHEAD).map_err(|_| Violation::StoreFull)?;
            self.request += self.charge.amount() - before;
            if self.request > REQUEST_MAX {
                return Err(Violation::RequestTooLarge);
            }
            self.current.reserve_exact(capacity - self.current.len());
        }
        self.current.extend_from_slice(&input[..taken]);
        *input = &input[taken..];
        if !complete {
            return Ok(None);
        }
        let charge = std::mem::replace(&mut self.charge, Charge::none(&self.meter));
        Ok(Some(Blob::adopt(std::mem::take(&mut self.current), charge)))
    }

    fn next_key(&mut self) -> Stage {
        if self.keys_left == 0 {
            return Stage::Complete;
        }
        self.keys_left -= 1;
        Stage::KeyLength
    }

    fn after_key(&mut self) -> Stage {
        match self.opcode {
            Opcode::Set
            | Opcode::Append
            | Opcode::QueuePush
            | Opcode::CompareSet
            | Opcode::MultiSet => Stage::ValueLength,
            Opcode::Add | Opcode::Barrier => Stage::Number,
            Opcode::Check | Opcode::Wait | Opcode::MultiGet => self.next_key(),
            _ => Stage::Complete,
        }
    }

    fn after_value(&mut self) -> Stage {
        match self.opcode {
            Opcode::CompareSet if self.values.len() == 1 => Stage::ValueLength,
            Opcode::MultiSet => self.next_key(),
            _ => Stage::Complete,
        }
    }

    fn assemble(&mut self) -> Request {
        match self.opcode {
            Opcode::Validate => Request::Validate(self.number as u32),
            Opcode::Ping => Request::Ping(self.number as u32),
            Opcode::NumKeys => Request::NumKeys,
            Opcode::CancelWait => Request::CancelWait,
            Opcode::ListKeys => Request::ListKeys,
            Opcode::Set => Request::Set { key: self.key(), value: self.value() },
            Opcode::Append => Request::Append { key: self.key(), value: self.value() },
            Opcode::QueuePush => Request::QueuePush { key: self.key(), value: self.value() },
            Opcode::CompareSet => {
                let desired = self.value();
                Request::CompareSet { key: self.key(), expected: self.value(), desired }
            }
            Opcode::Get => Request::Get { key: self.key() },
            Opcode::DeleteKey => Request::DeleteKey { key: self.key() },
            Opcode::QueuePop => Request::QueuePop { key: self.key() },
            Opcode::QueueLen => Request::QueueLen { key: self.key() },
            Opcode::Add => Request::Add { key: self.key(), delta: self.number },
            Opcode::Barrier => Request::Barrier { key: self.key(), world: self.number },
            Opcode::Check => Request::Check { keys: std::mem::take(&mut self.keys) },
            Opcode::Wait => Request::Wait { keys: std::mem::take(&mut self.keys) },
            Opcode::MultiGet => Request::MultiGet { keys: std::mem::take(&mut self.keys) },
            Opcode::MultiSet => Request::MultiSet {
                keys: std::mem::take(&mut self.keys),
                values: std::mem::take(&mut self.values),
            },
        }
    }

    /// The one key of a request that has one; the stages above guarantee it.
    fn key(&mut self) -> Blob {
        self.keys.pop().expect("the stages collect a key for this operation")
    }

    fn value(&mut self) -> Blob {
        self.values.pop().expect("the stages collect a value for this operation")
    }
}

fn first_stage(opcode: Opcode) -> Stage {
    match opcode {
        Opcode::Validate | Opcode::Ping => Stage::Word,
        Opcode::NumKeys | Opcode::CancelWait | Opcode::ListKeys => Stage::Complete,
        Opcode::Check | Opcode::Wait | Opcode::MultiGet | Opcode::MultiSet => Stage::Count,
        _ => Stage::KeyLength,
    }
}

fn within(announced: u64, limit: usize) -> Option<usize> {
    usize::try_from(announced).ok().filter(|length| *length <= limit)
}
