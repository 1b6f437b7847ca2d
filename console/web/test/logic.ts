// Tests of the page's parts that draw nothing. They run in the browser; browser_test.go reads window.__results.

import { unroll } from "../src/basemap";
import { bytes, csvCell, duration, heading, named } from "../src/format";
import { apply, FrameError } from "../src/frame";
import { Fleet, latitudeAt, longitudeAt, mercatorX, mercatorY } from "../src/fleet";

const results: string[] = [];
const check = (what: string, got: unknown, want: unknown): void => {
  const g = JSON.stringify(got);
  const w = JSON.stringify(want);
  if (g !== w) results.push(`${what}: got ${g}, want ${w}`);
};
const near = (what: string, got: number, want: number, by: number): void => {
  if (!(Math.abs(got - want) <= by)) results.push(`${what}: got ${got}, want ${want}`);
};
const unhex = (s: string): ArrayBuffer => new Uint8Array((s.replaceAll(" ", "").match(/../g) ?? []).map((x) => parseInt(x, 16))).buffer;

interface Golden { what: string; frame: string; error?: boolean; seq: number; anew: boolean; tick: number; slots: { [slot: string]: [number, number, number, number, number, number] } }

/** Frames written by hand from docs/live.md, one after the other into one fleet. */
function golden(list: Golden[]): void {
  const fleet = new Fleet();
  let now = 0;
  for (const g of list) {
    now += 1000;
    if (g.error) {
      let thrown: unknown = null;
      try {
        apply(unhex(g.frame), new Fleet(), now);
      } catch (e) {
        thrown = e;
      }
      check(g.what, thrown instanceof FrameError, true);
      continue;
    }
    const h = apply(unhex(g.frame), fleet, now);
    check(g.what + ": header", [h.seq, h.anew, h.tick], [g.seq, g.anew, g.tick]);
    const slots: Golden["slots"] = {};
    for (let s = 0; s < fleet.size; s++) {
      if (fleet.has(s)) slots[s] = [fleet.cell[s]!, fleet.lat[s]!, fleet.lon[s]!, fleet.speed[s]!, fleet.heading[s]!, fleet.state[s]!];
    }
    check(g.what, slots, g.slots);
    check(g.what + ": count", fleet.count, Object.keys(g.slots).length);
    check(g.what + ": by source", fleet.perSource.reduce((a, b) => a + b), fleet.count);
  }
  check("orphans", fleet.orphans, 1);
}

/** No prefix of a frame, and no frame with a byte changed, does anything but throw or decode. */
function damaged(list: Golden[]): void {
  for (const g of list) {
    const whole = new Uint8Array(unhex(g.frame));
    for (let n = 0; n < whole.length; n++) {
      try {
        apply(whole.slice(0, n).buffer, new Fleet(), 0);
        if (!g.error) results.push(`${g.what}: its first ${n} bytes were taken for a frame`);
      } catch (e) {
        if (!(e instanceof FrameError)) results.push(`${g.what}, ${n} bytes: ${String(e)}`);
      }
      const changed = whole.slice();
      changed[n] = changed[n]! ^ 0xff;
      try {
        apply(changed.buffer, new Fleet(), 0);
      } catch (e) {
        if (!(e instanceof FrameError)) results.push(`${g.what}, byte ${n} changed: ${String(e)}`);
      }
    }
  }
}

function glide(): void {
  const fleet = new Fleet();
  fleet.glide = 1000;
  fleet.key(3, 7, 52_000_000, 5_000_000, 65535, 0, 1, 0);
  near("a new one is where it is", fleet.drawnX(3, 0), mercatorX(5), 1e-12);
  fleet.delta(3, 7, 0, 1000, 64, 1000);
  near("half way", fleet.drawnX(3, 1500), mercatorX(5.0005), 1e-12);
  near("there", fleet.drawnX(3, 2500), mercatorX(5.001), 1e-12);
  check("speed is derived", fleet.speed[3]! > 6000 && fleet.speed[3]! < 7500, true);
  fleet.delta(3, 7, 0, 1000, 64, 2500);
  fleet.delta(3, 7, 0, 1000, 64, 3000); // from where it is drawn, not from where it was told to be
  near("no step back", fleet.drawnX(3, 3000), mercatorX(5.0015), 1e-12);
  fleet.key(3, 9, 60_000_000, 25_000_000, 0, 0, 1, 4000);
  near("a jump is not driven", fleet.drawnX(3, 4000), mercatorX(25), 1e-12);
  fleet.glide = 0;
  fleet.delta(3, 9, 0, 1000, 64, 5000);
  near("without interpolation", fleet.drawnX(3, 5000), mercatorX(25.001), 1e-12);
  fleet.key(1 << 21, 7, 0, 0, 0, 0, 0, 0);
  check("a slot out of bounds is not kept", [fleet.count, fleet.orphans, fleet.cell.length < 1 << 21], [1, 1, true]);
}

function reuse(): void {
  const fleet = new Fleet();
  for (let round = 0; round < 50; round++) {
    for (let s = 0; s < 2000; s++) fleet.key(s, 1, s, s, 0, 0, 2, round);
    fleet.names.set(7, "somebody");
    for (let s = 0; s < 2000; s++) fleet.left(s, 1);
    fleet.settle();
    check("nobody is left", [fleet.count, fleet.size, fleet.perSource[2]], [0, 0, 0]);
  }
  check("slots are used again", fleet.cell.length, 2048);
  fleet.key(7, 1, 0, 0, 0, 0, 2, 0);
  check("another device has another name", fleet.names.has(7), false);
}

function shown(): void {
  check("names", [named("truck-7"), named("a\u202eb\u0000c"), named("x".repeat(99), 5), named("Äö 日本")], ["truck-7", "a\ufffdb\ufffdc", "xxxxx…", "Äö 日本"]);
  check("cells of a file", [csvCell("a,\"b\""), csvCell("=1+1"), csvCell("-x"), csvCell(-1), csvCell(null), csvCell("a\r\nb")], ['"a,""b"""', "'=1+1", "'-x", "-1", "", '"a\r\nb"']);
  check("durations", [duration(0.123), duration(4.56), duration(640), duration(2600), duration(61_000), duration(null), duration(7_200_000)], ["0.12 ms", "4.6 ms", "640 ms", "2.6 s", "1 min", "–", "2 h"]);
  check("bytes", [bytes(999), bytes(1500), bytes(2.5e9), bytes(null)], ["999 B", "1.5 kB", "2.5 GB", "–"]);
  check("headings", [heading(0), heading(359.9), heading(202), heading(null)], ["N 0°", "N 0°", "S 202°", "–"]);
  for (const lat of [-80, -33.3, 0, 52.37, 84]) near("latitude " + lat, latitudeAt(mercatorY(lat)), lat, 1e-9);
  for (const lon of [-180, 4.9, 179]) near("longitude " + lon, longitudeAt(mercatorX(lon)), lon, 1e-9);
}

function rings(): void {
  check("a ring stays as it is", unroll([[1, 2], [3, 4], [1, 2]]), [[1, 2], [3, 4], [1, 2]]);
  check("over the antimeridian", unroll([[179, 60], [-179, 60], [-179, 61], [179, 61], [179, 60]]), [[179, 60], [181, 60], [181, 61], [179, 61], [179, 60]]);
  check("around a pole", unroll([[-180, -70], [-60, -70], [60, -70], [180, -70], [-170, -70]]), [[-180, -70], [-60, -70], [60, -70], [180, -70], [190, -70], [190, -90], [-180, -90], [-180, -70]]);
}

void (async () => {
  try {
    const list = (await (await fetch("/test/frames.json")).json()) as Golden[];
    golden(list);
    damaged(list);
    glide();
    reuse();
    shown();
    rings();
  } catch (e) {
    results.push(String(e));
  }
  (window as unknown as { __results: string[] }).__results = results;
})();
