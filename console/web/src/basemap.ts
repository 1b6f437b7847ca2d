// What lies under the vehicles: a coarse world, and the streets that the node has. No tiles, no fonts, no other host.

import type { LayerSpecification, StyleSpecification } from "maplibre-gl";
import feature from "topojson-client/src/feature.js";
import worldURL from "asset:../vendor/world-atlas/countries-50m.json";
import type { Palette } from "./palette";

const EMPTY = { type: "FeatureCollection", features: [] } as const;

/** The map's look. Near the ground the coarse coast would only mislead, so water and land become one there. */
export function style(p: Palette, streets: boolean): StyleSpecification {
  const near = (far: string) => ["interpolate", ["linear"], ["zoom"], 9.5, far, 11.5, p.landNear];
  const layers: unknown[] = [
    { id: "water", type: "background", paint: { "background-color": near(p.water) } },
    { id: "land", type: "fill", source: "world", paint: { "fill-color": near(p.land), "fill-antialias": false } },
    {
      id: "border", type: "line", source: "world", maxzoom: 12,
      paint: { "line-color": p.border, "line-width": ["interpolate", ["linear"], ["zoom"], 1, 0.5, 6, 1], "line-opacity": ["interpolate", ["linear"], ["zoom"], 9.5, 1, 11.5, 0] },
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
  const sources: StyleSpecification["sources"] = { world: { type: "geojson", data: EMPTY as never, maxzoom: 7 } };
  if (streets) sources["streets"] = { type: "geojson", data: EMPTY as never, maxzoom: 15, tolerance: 0.3 };
  return { version: 8, sources, layers: layers as LayerSpecification[] };
}

type Ring = [number, number][];
interface Shape { type: string; features?: { geometry: Shape | null }[]; coordinates?: Ring[] | Ring[][] }

/**
 * The rings are made for a globe: where one crosses the antimeridian it jumps to the other side. On a plane it goes on beyond ±180° instead (the
 * map repeats itself there), and one that goes all around a pole is closed over it.
 */
export function unroll(ring: Ring): Ring {
  let turns = 0;
  const out: Ring = ring.map(([lon, lat], i) => {
    const before = i > 0 ? ring[i - 1]![0] : lon;
    if (lon - before > 180) turns -= 360;
    else if (lon - before < -180) turns += 360;
    return [lon + turns, lat];
  });
  if (turns !== 0) {
    const pole = out[0]![1] < 0 ? -90 : 90;
    out.push([out.at(-1)![0], pole], [out[0]![0], pole], out[0]!);
  }
  return out;
}

function unrollAll(s: Shape): void {
  for (const f of s.features ?? []) if (f.geometry) unrollAll(f.geometry);
  if (s.type === "Polygon") s.coordinates = (s.coordinates as Ring[]).map(unroll);
  else if (s.type === "MultiPolygon") s.coordinates = (s.coordinates as Ring[][]).map((p) => p.map(unroll));
}

/** The world's countries, as GeoJSON. */
export async function world(): Promise<object> {
  const r = await fetch(worldURL);
  const topology = (await r.json()) as { objects: { countries: object } };
  const shapes = feature(topology, topology.objects.countries);
  unrollAll(shapes as Shape);
  return shapes;
}

export interface Streets { data: object; attribution: string }

/** The node's streets; null: it has none. */
export async function streets(): Promise<Streets | null> {
  try {
    const r = await fetch("/map/streets.json", { credentials: "same-origin" });
    if (r.status !== 200) return null; // 204: none
    const data = (await r.json()) as { type?: string; attribution?: unknown };
    if (data.type !== "FeatureCollection") return null;
    return { data, attribution: typeof data.attribution === "string" ? data.attribution : "© OpenStreetMap contributors" };
  } catch {
    return null;
  }
}
