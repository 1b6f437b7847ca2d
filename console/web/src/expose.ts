// What tests see of the page: window.__fleet. Nothing here is needed to work with it.

import { fleet, live, pipeline } from "./state";
import { theMap } from "./map";
import * as state from "./state";

export function expose(): void {
  const slotOf = (device: string | number): number => {
    if (typeof device === "number") return device;
    if (state.detail.value?.id === device) return state.detail.value.slot;
    for (const [slot, name] of fleet.names) if (name === device) return slot;
    return -1;
  };
  (window as unknown as { __fleet: object }).__fleet = {
    get drawn() { return theMap()?.layer.drawn ?? 0; },
    get draws() { return theMap()?.layer.draws ?? 0; },
    get drawCost() { return theMap()?.layer.cost ?? 0; },
    get devices() { return fleet.count; },
    get lastSeq() { return live.lastSeq; },
    get dropped() { return live.dropped; },
    get broken() { return live.broken; },
    get orphans() { return fleet.orphans; },
    get connects() { return live.connects; },
    get bytes() { return live.bytes; },
    get offset() { return live.offset; },
    get tick() { return state.frameTick; },
    get pipeline() { return pipeline.value; },
    get slots() { const out: number[] = []; for (let s = 0; s < fleet.size; s++) if (fleet.has(s)) out.push(s); return out; },
    get camera() { return theMap()?.camera(); },
    get settled() { return theMap()?.settled ?? false; },
    get surveying() { return theMap()?.surveying ?? -1; },
    cut: () => live.cut(),
    /** The last state of a device (slot, or a name that the page has learnt), and where on the canvas it is drawn, if it is in view. */
    position(device: string | number) {
      const slot = slotOf(device);
      if (!fleet.has(slot)) return null;
      const at = theMap()?.layer.position(slot);
      return { lat: fleet.latitude(slot), lon: fleet.longitude(slot), x: at?.x ?? null, y: at?.y ?? null, source: fleet.source(slot), stale: fleet.stale(slot) };
    },
    /** All at once, for comparing: slot, latitude, longitude in 1e-6 degrees. */
    positions() {
      const out: [number, number, number][] = [];
      for (let s = 0; s < fleet.size; s++) if (fleet.has(s)) out.push([s, fleet.lat[s]!, fleet.lon[s]!]);
      return out;
    },
  };
}
