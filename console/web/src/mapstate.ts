// What the map tells the rest of the page.

import { signal } from "@preact/signals";

export interface Area { source: number; count: number; box: [number, number, number, number] }

/** Where each source's vehicles are, most vehicles first. */
export const areas = signal<Area[]>([]);
export const hovered = signal<{ slot: number; x: number; y: number; name: string } | null>(null);
export const following = signal(false);
export const inView = signal(0);
/** Of the streets, where they are shown. */
export const attribution = signal("");
