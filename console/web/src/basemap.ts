// What lies under the vehicles: a coarse world, and the streets that the node has. No tiles, no fonts, no other host.

import type { LayerSpecification, StyleSpecification } from "maplibre-gl";
import feature from "topojson-client/src/feature.js";
import worldURL from "asset:../vendor/world-atlas/countries-50m.json";
import type { Palette } from "./palette";

const EMPTY = { type: "FeatureCollection", features: [] } as const;

/** The map's look. Near the ground the coarse coast would only mislead, so water and land become one there. */
export function style(p: Palette, streets: boolean): StyleSpecification {
  const near = (far: string) => ["interpolate", ["linear"], ["zoom"], 7.5, far, 9.5, p.landNear];
  const layers: unknown[] = [
    { id: "water", type: "background", paint: { "background-color": near(p.water) } },
    { id: "land", type: "fill", source: "world", paint: { "fill-color": near(p.land), "fill-antialias": false } },
    {
      id: "border", type: "line", source: "world", maxzoom: 10,
      paint: { "line-color": p.border, "line-width": ["interpolate", ["linear"], ["zoom"], 1, 0.5, 6, 1], "line-opacity": ["interpolate", ["linear"], ["zoom"], 8, 1, 9.5, 0] },
    },
  ];
  if (streets) {
    const width = (by: number) => ["interpolate", ["exponential", 1.5], ["zoom"], 9, 0.4 * by, 12, by, 15, 3.2 * by, 18, 12 * by];
    const line = (cls: string, colour: string, by: number, minzoom: number) => ({
      id: "street-" + cls, type: "line", source: "streets", filter: ["==", ["get", "class"], cls], minzoom,
      layout: { "line-cap": "round", "line-join": "round" }, paint: { "line-color": colour, "line-width": width(by) },
    });
    layers.push(
      {
        id: "street-edge", type: "line", source: "streets", minzoom: 11, layout: { "line-cap": "round", "line-join": "round" },
        paint: { "line-color": p.border, "line-opacity": 0.5, "line-width": ["interpolate", ["exponential", 1.5], ["zoom"], 11, 1.2, 13, 2.4, 15, 5, 18, 15] },
      },
      line("street", p.street, 0.8, 8),
      line("main", p.main, 1.5, 7),
      line("motorway", p.motorway, 2.1, 6),
    );
  }
  const sources: StyleSpecification["sources"] = { world: { type: "geojson", data: EMPTY as never, maxzoom: 8, tolerance: 0.4 } };
  if (streets) sources["streets"] = { type: "geojson", data: EMPTY as never, maxzoom: 15, tolerance: 0.3 };
  return { version: 8, sources, layers: layers as LayerSpecification[] };
}

export async function world(): Promise<object> {
  const r = await fetch(worldURL);
  const topology = await r.json();
  return feature(topology, topology.objects.countries) as object;
}

export interface Streets { data: object; attribution: string }

/** The node's streets; null: it has none. */
export async function streets(): Promise<Streets | null> {
  try {
    const r = await fetch("/map/streets.json", { credentials: "same-origin" });
    if (!r.ok) return null;
    const data = (await r.json()) as { type?: string; attribution?: unknown };
    if (data.type !== "FeatureCollection") return null;
    return { data, attribution: typeof data.attribution === "string" ? data.attribution : "© OpenStreetMap contributors" };
  } catch {
    return null;
  }
}
