// The last known state of every device in view, by slot, in arrays that grow and are used again: nothing here is made anew per frame,
// so the page's memory is flat however long it runs.

/** No slot is this large: a node names its devices with small numbers. What is above is counted, not kept. */
export const MAX_SLOTS = 1 << 20;

/** A move longer than this, in turns of the world (about 2 km at 50°), is a jump, not a drive. */
const JUMP = 8e-5;

const FREE = -1;
const LEAVING = -2;

export const UNKNOWN_SPEED = 65535;
const NO_HEADING = 1 << 4;
const STALE = 1 << 5;

export const mercatorX = (lon: number): number => lon / 360 + 0.5;
export const mercatorY = (lat: number): number => {
  const s = Math.sin((Math.max(-85.06, Math.min(85.06, lat)) * Math.PI) / 180);
  return 0.5 - Math.log((1 + s) / (1 - s)) / (4 * Math.PI);
};
export const longitudeAt = (x: number): number => (x - 0.5) * 360;
export const latitudeAt = (y: number): number => (Math.atan(Math.sinh((0.5 - y) * 2 * Math.PI)) * 180) / Math.PI;

const grow = <T extends Int32Array | Float64Array | Uint16Array | Uint8Array>(a: T, n: number, fill = 0): T => {
  const b = new (a.constructor as new (n: number) => T)(n);
  if (fill) b.fill(fill);
  b.set(a);
  return b;
};

export class Fleet {
  /** One more than the highest slot in use. */
  size = 0;
  /** How many slots hold a device. */
  count = 0;
  /** How many there are of each source. */
  perSource = new Int32Array(16);
  /** Rows that named no device we know, or a slot out of bounds. */
  orphans = 0;

  /** The cell a slot is in; FREE: no device has the slot; LEAVING: it has left its cell, and settle decides. */
  cell = new Int32Array(0);
  lat = new Int32Array(0); // 1e-6 degrees, the last state
  lon = new Int32Array(0);
  speed = new Uint16Array(0); // cm/s
  heading = new Uint8Array(0);
  state = new Uint8Array(0);
  // Where it is drawn: from (fx, fy) at time since to (x, y) one tick later. Mercator, the world is 0…1.
  x = new Float64Array(0);
  y = new Float64Array(0);
  fx = new Float64Array(0);
  fy = new Float64Array(0);
  since = new Float64Array(0);

  /** The names of slots, as far as somebody asked for them; forgotten when a slot gets another device. */
  names = new Map<number, string>();

  /** ms that a move takes to be drawn; 0: positions are drawn as they come. */
  glide = 0;

  private leaving: number[] = [];

  private reserve(slot: number): boolean {
    if (slot >= MAX_SLOTS) return false;
    if (slot < this.cell.length) return true;
    const n = Math.min(MAX_SLOTS, Math.max(1024, 1 << Math.ceil(Math.log2(slot + 1))));
    this.cell = grow(this.cell, n, FREE);
    this.lat = grow(this.lat, n);
    this.lon = grow(this.lon, n);
    this.speed = grow(this.speed, n, UNKNOWN_SPEED);
    this.heading = grow(this.heading, n);
    this.state = grow(this.state, n);
    this.x = grow(this.x, n);
    this.y = grow(this.y, n);
    this.fx = grow(this.fx, n);
    this.fy = grow(this.fy, n);
    this.since = grow(this.since, n);
    return true;
  }

  has(slot: number): boolean {
    return slot >= 0 && slot < this.size && this.cell[slot]! >= 0;
  }
  source(slot: number): number {
    return this.state[slot]! & 15;
  }
  stale(slot: number): boolean {
    return (this.state[slot]! & STALE) !== 0;
  }
  hasHeading(slot: number): boolean {
    return (this.state[slot]! & NO_HEADING) === 0;
  }
  latitude(slot: number): number {
    return this.lat[slot]! / 1e6;
  }
  longitude(slot: number): number {
    return this.lon[slot]! / 1e6;
  }

  /** How much of its move a slot has made at that time, 0…1. */
  progress(slot: number, now: number): number {
    if (this.glide <= 0) return 1;
    const t = (now - this.since[slot]!) / this.glide;
    return t >= 1 ? 1 : t > 0 ? t : 0;
  }
  drawnX(slot: number, now: number): number {
    const t = this.progress(slot, now);
    return t === 1 ? this.x[slot]! : this.fx[slot]! + (this.x[slot]! - this.fx[slot]!) * t;
  }
  drawnY(slot: number, now: number): number {
    const t = this.progress(slot, now);
    return t === 1 ? this.y[slot]! : this.fy[slot]! + (this.y[slot]! - this.fy[slot]!) * t;
  }

  clear(): void {
    this.cell.fill(FREE);
    this.perSource.fill(0);
    this.names.clear();
    this.size = 0;
    this.count = 0;
  }

  /** A key row: all that is known of a slot. */
  key(slot: number, cell: number, lat: number, lon: number, speed: number, heading: number, state: number, now: number): void {
    if (!this.reserve(slot)) {
      this.orphans++;
      return;
    }
    const known = this.cell[slot] !== FREE;
    if (known) this.perSource[this.source(slot)]!--;
    else {
      this.count++;
      this.names.delete(slot);
      if (slot >= this.size) this.size = slot + 1;
    }
    this.cell[slot] = cell;
    this.speed[slot] = speed;
    this.heading[slot] = heading;
    this.state[slot] = state;
    this.perSource[state & 15]!++;
    this.move(slot, lat, lon, known, now);
  }

  /** A delta row: what changed of a slot. It has been heard, so it is not stale. */
  delta(slot: number, cell: number, dlat: number, dlon: number, heading: number, now: number): void {
    if (slot >= this.size || this.cell[slot]! < 0) {
      this.orphans++;
      return;
    }
    this.cell[slot] = cell;
    this.heading[slot] = heading;
    this.state[slot]! &= ~STALE;
    const lat = this.latitude(slot);
    const metres = Math.hypot(dlat * 0.1113, dlon * 0.1113 * Math.cos((lat * Math.PI) / 180));
    const seconds = Math.min(60, Math.max(0.5, (now - this.since[slot]!) / 1000));
    this.speed[slot] = Math.min(UNKNOWN_SPEED - 1, Math.round((metres * 100) / seconds));
    this.move(slot, this.lat[slot]! + dlat, this.lon[slot]! + dlon, true, now);
  }

  /** The slot has left that cell. It may have come into another one in the same frame: settle decides. */
  left(slot: number, cell: number): void {
    if (slot >= this.size || this.cell[slot] !== cell) return;
    this.cell[slot] = LEAVING;
    this.leaving.push(slot);
  }

  /** All have left that cell, but those for which a key row comes. */
  empty(cell: number): void {
    for (let slot = 0; slot < this.size; slot++) if (this.cell[slot] === cell) this.left(slot, cell);
  }

  /** Ends a frame: who has left a cell and come into none is gone. */
  settle(): void {
    for (const slot of this.leaving) {
      if (this.cell[slot] !== LEAVING) continue;
      this.cell[slot] = FREE;
      this.names.delete(slot);
      this.perSource[this.source(slot)]!--;
      this.count--;
    }
    this.leaving.length = 0;
    while (this.size > 0 && this.cell[this.size - 1]! < 0) this.size--;
  }

  private move(slot: number, lat: number, lon: number, known: boolean, now: number): void {
    const x = mercatorX(lon / 1e6);
    const y = mercatorY(lat / 1e6);
    const fx = known ? this.drawnX(slot, now) : x;
    const fy = known ? this.drawnY(slot, now) : y;
    const jump = Math.abs(x - fx) > JUMP || Math.abs(y - fy) > JUMP;
    this.fx[slot] = jump ? x : fx;
    this.fy[slot] = jump ? y : fy;
    this.x[slot] = x;
    this.y[slot] = y;
    this.lat[slot] = lat;
    this.lon[slot] = lon;
    this.since[slot] = now;
  }
}
