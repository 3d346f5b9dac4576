//! The device trait, used as a staging pipeline uses it.

use std::collections::VecDeque;

use allhands_tensor::{Device, DeviceError, HostDevice, Progress, Transfer};

/// Moves all of `source` to `target` through `slots`, as many copies in flight as there are slots.
fn pipeline<D: Device>(
    device: &D,
    source: &D::Memory,
    target: &D::Memory,
    len: usize,
    slots: Vec<D::Slot>,
) -> Result<usize, DeviceError> {
    let (mut outward, mut inward) = (device.queue()?, device.queue()?);
    let piece = slots.first().map_or(1, |slot| slot.len());
    let mut free = slots;
    let mut leaving = VecDeque::new();
    let mut returning = VecDeque::new();
    let (mut next, mut copies) = (0, 0);
    while next < len || !leaving.is_empty() || !returning.is_empty() {
        if next < len
            && let Some(slot) = free.pop()
        {
            let range = next..len.min(next + piece);
            next = range.end;
            leaving.push_back((device.copy_out(&mut outward, source, range.clone(), slot)?, range));
        }
        if let Some((mut transfer, range)) = leaving.pop_front() {
            match transfer.poll()? {
                Some(slot) => {
                    let event = device.record(&mut outward)?;
                    device.wait(&mut inward, &event)?;
                    returning.push_back(device.copy_in(&mut inward, slot, target, range)?);
                    copies += 1;
                }
                None => leaving.push_front((transfer, range)),
            }
        }
        if let Some(mut transfer) = returning.pop_front() {
            match transfer.poll()? {
                Some(slot) => free.push(slot),
                None => returning.push_front(transfer),
            }
        }
    }
    let last = device.record(&mut inward)?;
    while device.poll(&last)? == Progress::Pending {}
    Ok(copies)
}

#[test]
fn a_pipeline_over_the_host_copies_everything() {
    let device = HostDevice::new();
    assert_eq!(device.name(), "host");
    let len = 1000;
    let source = device.allocate(len).expect("memory");
    let target = device.allocate(len).expect("memory");
    for (index, byte) in source.lock().iter_mut().enumerate() {
        *byte = (index * 7) as u8;
    }
    let slots = (0..3).map(|_| device.slot(64).expect("memory")).collect();
    assert_eq!(pipeline(&device, &source, &target, len, slots), Ok(16));
    let expected = source.lock().to_vec();
    assert_eq!(target.lock().to_vec(), expected);
}

#[test]
fn copies_that_do_not_fit_are_errors() {
    let device = HostDevice::new();
    let memory = device.allocate(8).expect("memory");
    let mut queue = device.queue().expect("a queue");
    let slot = device.slot(4).expect("memory");
    let error = device.copy_out(&mut queue, &memory, 0..5, slot).expect_err("longer than the slot");
    assert_eq!(
        error.to_string(),
        "bytes 0..5 on device host do not fit memory of 8 bytes and a slot of 4 bytes; cut the \
         copy into pieces"
    );
    let slot = device.slot(4).expect("memory");
    let error = device.copy_in(&mut queue, slot, &memory, 6..9).expect_err("leaves the memory");
    assert!(matches!(error, DeviceError::OutOfBounds { start: 6, end: 9, memory: 8, .. }));
    let slot = device.slot(4).expect("memory");
    #[allow(clippy::reversed_empty_ranges)]
    let backwards = 5..3;
    assert!(device.copy_out(&mut queue, &memory, backwards, slot).is_err());
}

#[test]
fn a_slot_comes_back_once() {
    let device = HostDevice::new();
    let memory = device.allocate(4).expect("memory");
    let mut queue = device.queue().expect("a queue");
    let slot = device.slot(4).expect("memory");
    let mut transfer = device.copy_out(&mut queue, &memory, 0..4, slot).expect("fits");
    assert!(transfer.poll().expect("over").is_some());
    assert_eq!(
        transfer.poll().expect_err("taken"),
        DeviceError::SlotTaken { device: "host".into() }
    );
}
