// Frames of the live channel (docs/live.md), decoded straight into the fleet.

import type { Fleet } from "./fleet";

export interface Header {
  anew: boolean;
  seq: number;
  tick: number; // node clock, ms
  received: number; // 0: none
  sent: number; // 0: unknown
  rows: number;
}

export class FrameError extends Error {}

const HEADER = 32;
const SECTION = 16;
const KEY_ROW = 16;
const WHOLE = 0x80000000; // of a cell: what is not in this section is no longer in the cell

/** Reads uvarints of at most 32 bits. */
class Reader {
  constructor(
    readonly bytes: Uint8Array,
    public at: number,
  ) {}
  uvarint(): number {
    let v = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      if (this.at >= this.bytes.length) throw new FrameError("the frame ends within a number");
      const b = this.bytes[this.at++]!;
      v += (b & 127) * 2 ** shift;
      if (b < 128) return v;
    }
    throw new FrameError("a number is too long");
  }
  zigzag(): number {
    const v = this.uvarint();
    return v % 2 === 0 ? v / 2 : -(v + 1) / 2;
  }
  byte(): number {
    if (this.at >= this.bytes.length) throw new FrameError("the frame ends within a row");
    return this.bytes[this.at++]!;
  }
}

/** The header alone, to see whether a frame is missing before its rows are believed. */
export function header(buffer: ArrayBuffer): Header {
  if (buffer.byteLength < HEADER) throw new FrameError("shorter than a header");
  const d = new DataView(buffer);
  if (d.getUint8(0) !== 1) throw new FrameError("version " + d.getUint8(0));
  return {
    anew: (d.getUint8(1) & 1) !== 0,
    seq: d.getUint32(4, true),
    tick: d.getFloat64(8, true),
    received: d.getFloat64(16, true),
    sent: d.getFloat64(24, true),
    rows: 0,
  };
}

/** Applies a frame at a time of the page's clock. When it throws, the fleet needs a frame that begins anew. */
export function apply(buffer: ArrayBuffer, fleet: Fleet, now: number): Header {
  const h = header(buffer);
  const d = new DataView(buffer);
  const r = new Reader(new Uint8Array(buffer), HEADER);
  if (h.anew) fleet.clear();
  for (let sections = d.getUint16(2, true); sections > 0; sections--) {
    if (r.at + SECTION > r.bytes.length) throw new FrameError("the frame ends within a section");
    const named = d.getUint32(r.at, true);
    const cell = named & ~WHOLE;
    if (named >= WHOLE) fleet.empty(cell);
    const keys = d.getUint32(r.at + 4, true);
    const deltas = d.getUint32(r.at + 8, true);
    const left = d.getUint32(r.at + 12, true);
    r.at += SECTION;
    if (r.at + keys * KEY_ROW > r.bytes.length) throw new FrameError("the frame ends within its key rows");
    for (let i = 0; i < keys; i++, r.at += KEY_ROW) {
      const at = r.at;
      fleet.key(
        d.getUint32(at, true), cell, d.getInt32(at + 4, true), d.getInt32(at + 8, true),
        d.getUint16(at + 12, true), d.getUint8(at + 14), d.getUint8(at + 15), now,
      );
    }
    for (let i = 0, slot = 0; i < deltas; i++) {
      slot += r.uvarint();
      const dlat = r.zigzag();
      const dlon = r.zigzag();
      fleet.delta(slot, cell, dlat, dlon, r.byte(), now);
    }
    for (let i = 0, slot = 0; i < left; i++) {
      slot += r.uvarint();
      fleet.left(slot, cell);
    }
    h.rows += keys + deltas + left;
  }
  if (r.at !== r.bytes.length) throw new FrameError("bytes after the last section");
  fleet.settle();
  return h;
}
