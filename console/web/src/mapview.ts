// The map: MapLibre for the ground, the vehicle layer above it, and what connects the two to the page. It is made once and lives as long
// as the page; where it is not shown, it draws nothing.

import { effect } from "@preact/signals";
import { Map as GroundMap, setWorkerUrl, type GeoJSONSource } from "maplibre-gl";
import workerURL from "asset:../vendor/maplibre-gl/maplibre-gl-worker.mjs";
import { devices } from "./api";
import { style, streets, world, type Streets } from "./basemap";
import { latitudeAt, longitudeAt, mercatorX, mercatorY } from "./fleet";
import { named } from "./format";
import { VehicleLayer, type Camera } from "./layer";
import { areas, attribution, following, hovered, inView, type Area } from "./mapstate";
import { palette } from "./palette";
import { alter, route } from "./router";
import { connection, dark, detail, fleet, interpolated, live, onFrame, pipeline, select, selected } from "./state";

setWorkerUrl(workerURL);

type Box = [west: number, south: number, east: number, north: number];
const YOUNG = 60_000; // ms that a fleet may take to connect when its node has started
const EDGE = 0.1; // of a source's vehicles that may be beyond its area, on each side
const WORLD: Box = [-180, -85, 180, 85];

const parseAt = (at: string | null): { center: [number, number]; zoom: number } | null => {
  const n = (at ?? "").split(",").map(Number);
  if (n.length !== 3 || !n.every(Number.isFinite)) return null;
  const [lat, lon, zoom] = n as [number, number, number];
  return Math.abs(lat) <= 85 && Math.abs(lon) <= 180 && zoom >= 0 && zoom <= 22 ? { center: [lon, lat], zoom } : null;
};

export class MapView {
  readonly layer: VehicleLayer;
  private readonly map: GroundMap;
  private readonly holder: HTMLElement;
  private raf = 0;
  private dirty = true;
  private lastDraw = 0;
  private seqDrawn = -1;
  private surveyed = false; // the whole world was seen once, so that it is known where everybody is
  surveying = -1; // frames since the whole world was asked for; -1: it was not
  private nextSurvey = 0;
  private counted = [0, 0]; // devices in the two frames before
  private placed = false; // somebody or something has chosen what is shown
  private brought = -1; // else: the source whose area is shown, because most vehicles are there
  private wroteAt = "";
  private looking = 0;
  private wanted = ""; // a selected device to be shown when it is known where it is
  private readonly weak: boolean; // no GPU: do not move the ground more than needed
  private ready = false; // the ground is there, and can be painted otherwise
  private roads: Streets | null = null;
  private asking = false;

  constructor(holder: HTMLElement) {
    this.holder = holder;
    const at = parseAt(route.value.query.get("at"));
    this.placed = at !== null;
    this.map = new GroundMap({
      container: holder,
      style: style(palette(dark.value), false),
      center: at?.center ?? [12, 40],
      zoom: at?.zoom ?? 1.6,
      minZoom: 1,
      maxZoom: 19,
      maxPitch: 0,
      dragRotate: false,
      pitchWithRotate: false,
      touchPitch: false,
      attributionControl: false,
      fadeDuration: 0,
      trackResize: true,
      refreshExpiredTiles: false,
    });
    this.map.touchZoomRotate.disableRotation();
    this.map.keyboard.disableRotation();
    const ground = this.map.getCanvas();
    this.weak = isSoftware(ground);
    const canvas = document.createElement("canvas");
    canvas.className = "vehicles";
    canvas.setAttribute("aria-hidden", "true");
    ground.after(canvas);
    this.layer = new VehicleLayer(canvas, fleet);
    this.layer.resize(holder.clientWidth, holder.clientHeight);
    this.map.on("resize", () => this.resized());
    this.map.on("render", () => this.draw(performance.now()));
    this.map.on("moveend", () => this.moved());
    this.map.on("dragstart", () => (following.value = false));
    this.map.on("movestart", (e) => {
      if ((e as { originalEvent?: unknown }).originalEvent) this.placed = true;
    });
    this.map.on("mousemove", (e) => this.hover(e.point.x, e.point.y));
    this.map.on("mouseout", () => this.hover(-99, -99));
    this.map.on("click", (e) => void this.click(e.point.x, e.point.y));
    this.map.once("load", () => void this.furnish());
    onFrame(() => this.framed());
    document.addEventListener("visibilitychange", () => this.touch());
    // Who comes with a place in the address still learns where everybody is: the first look is at the whole world.
    this.lookAround();
    effect(() => {
      void dark.value;
      this.paint();
      this.touch();
    });
    effect(() => {
      void detail.value;
      this.touch();
    });
    effect(() => {
      const chosen = selected.value;
      // A link that says where to look means that place, whatever else it says.
      if (this.nextSurvey > 0 || !this.placed) this.wanted = chosen;
      if (!chosen) following.value = false;
    });
    effect(() => {
      const at = route.value.page === "map" ? route.value.query.get("at") : null;
      const to = at !== this.wroteAt ? parseAt(at) : null;
      if (to && this.wroteAt) this.map.jumpTo(to);
    });
    effect(() => {
      if (connection.value.state !== "live") this.touch();
    });
  }

  /** The page shows or hides the map. */
  shown(visible: boolean): void {
    if (!visible) return;
    this.map.resize();
    this.tell();
    this.touch();
  }

  /** Gives the ground the theme's colours. */
  private paint(): void {
    if (!this.ready) return;
    for (const layer of style(palette(dark.value), this.roads !== null).layers) {
      for (const [k, v] of Object.entries(layer.paint ?? {})) this.map.setPaintProperty(layer.id, k as never, v as never);
    }
  }

  zoom(by: number): void {
    this.placed = true;
    this.map.zoomTo(this.map.getZoom() + by, { duration: interpolated ? 250 : 0 });
  }

  everything(): void {
    this.placed = true;
    const all = areas.value;
    if (all.length === 0) return this.fly(WORLD);
    this.fly([
      Math.min(...all.map((a) => a.box[0])), Math.min(...all.map((a) => a.box[1])),
      Math.max(...all.map((a) => a.box[2])), Math.max(...all.map((a) => a.box[3])),
    ]);
  }

  area(a: Area): void {
    this.placed = true;
    following.value = false;
    this.fly(a.box);
  }

  /** Shows a place near enough to see a vehicle there. */
  near(lat: number, lon: number): void {
    this.placed = true;
    this.map.flyTo({ center: [lon, lat], zoom: Math.max(this.map.getZoom(), 14.8), offset: this.free(), duration: this.weak || !interpolated ? 0 : 1500 });
  }

  /** How far the middle of what the panel leaves free is from the middle. */
  private free(): [number, number] {
    if (!selected.value) return [0, 0];
    return this.holder.clientWidth > 700 ? [-100, 0] : [0, -0.2 * this.holder.clientHeight];
  }

  /** All that is to be drawn below the vehicles has been. */
  get settled(): boolean {
    return this.ready && this.map.loaded();
  }

  focus(): void {
    this.map.getCanvas().focus();
  }

  camera(): Camera {
    const c = this.map.getCenter();
    const zoom = this.map.getZoom();
    return {
      x: mercatorX(c.lng), y: mercatorY(c.lat), world: 512 * 2 ** zoom, zoom,
      width: this.holder.clientWidth, height: this.holder.clientHeight,
    };
  }

  private fly(box: Box): void {
    const wide = this.holder.clientWidth > 700;
    const padding = wide ? { top: 60, bottom: 50, left: 60, right: 60 } : 30;
    const far = Math.abs(mercatorX((box[0] + box[2]) / 2) - this.camera().x) * this.camera().world > 4000;
    this.map.fitBounds(box, { padding, maxZoom: 15, duration: this.weak || !interpolated ? 0 : far ? 2600 : 1100, linear: false });
  }

  private async furnish(): Promise<void> {
    const [ground, roads] = await Promise.all([world().catch(() => null), streets()]);
    this.ready = true;
    this.roads = roads;
    attribution.value = roads ? roads.attribution : "";
    if (ground) void this.map.getSource<GeoJSONSource>("world")?.setData(ground as never);
    const full = style(palette(dark.value), roads !== null);
    for (const [id, source] of Object.entries(full.sources)) {
      if (!this.map.getSource(id)) this.map.addSource(id, { ...source, data: roads!.data } as never);
    }
    for (const layer of full.layers) if (!this.map.getLayer(layer.id)) this.map.addLayer(layer);
    this.paint(); // the theme may have changed meanwhile
  }

  // A frame came: it may be the first, it may have brought what somebody waits for.
  private framed(): void {
    if (this.surveying >= 0) this.lookedAround();
    else if (this.map.getZoom() < 5) this.survey();
    else if (performance.now() > this.nextSurvey && this.holder.offsetParent && !document.hidden) this.lookAround();
    inView.value = this.layer.drawn;
    const d = detail.value;
    if (this.wanted && d && d.id === this.wanted && d.lat !== null && d.lon !== null) {
      this.wanted = "";
      if (!this.placed || !this.map.getBounds().contains([d.lon, d.lat])) this.near(d.lat, d.lon);
    }
    const h = hovered.value;
    if (h) this.hover(h.x, h.y); // it may have driven away from under the pointer
    this.touch();
    if (following.value) this.keepUp();
    this.nameThem();
  }

  // Who looks at one place only would not learn that there are vehicles elsewhere. So now and then one frame is of the whole world; the more
  // there are, the less often.
  private lookAround(): void {
    this.surveying = 0;
    live.look({ bbox: WORLD, zoom: 1 });
  }

  private lookedAround(): void {
    this.surveying++;
    const before = this.counted.shift()!;
    this.counted.push(fleet.count);
    const young = !pipeline.value || pipeline.value.now - pipeline.value.started < YOUNG;
    if (!this.surveyed) {
      // A fleet that is just connecting is not judged by those who came first.
      if (fleet.count === 0 || (young && this.surveying < 10 && fleet.count > before * 1.05)) return;
    } else if (this.surveying < 2) return; // it was under way when the question was
    this.surveying = -1;
    this.surveyed = true;
    this.nextSurvey = performance.now() + (young ? 5000 : Math.max(30_000, fleet.count * 3));
    this.survey();
    const first = areas.value[0];
    if (!this.placed && !selected.value && first && first.source !== this.brought) {
      this.brought = first.source;
      this.fly(first.box);
    }
    this.look();
  }

  /** Where each source's vehicles are: what all but the outermost few lie within. */
  private survey(): void {
    const places = new Map<number, { lat: number[]; lon: number[] }>();
    for (let slot = 0; slot < fleet.size; slot++) {
      if (!fleet.has(slot)) continue;
      const s = fleet.source(slot);
      let p = places.get(s);
      if (!p) places.set(s, (p = { lat: [], lon: [] }));
      p.lat.push(fleet.latitude(slot));
      p.lon.push(fleet.longitude(slot));
    }
    const found: Area[] = [];
    for (const [source, p] of places) {
      const edge = (a: number[], q: number) => a.sort((x, y) => x - y)[Math.round((a.length - 1) * q)]!;
      found.push({ source, count: p.lat.length, box: [edge(p.lon, EDGE), edge(p.lat, EDGE), edge(p.lon, 1 - EDGE), edge(p.lat, 1 - EDGE)] });
    }
    areas.value = found.sort((a, b) => b.count - a.count);
  }

  private keepUp(): void {
    const d = detail.value;
    if (!d || !fleet.has(d.slot)) return;
    const center: [number, number] = [fleet.longitude(d.slot), fleet.latitude(d.slot)];
    if (!this.weak && interpolated) {
      this.map.easeTo({ center, offset: this.free(), duration: fleet.glide, easing: (t) => t });
      return;
    }
    const at = this.layer.position(d.slot);
    const { width, height } = this.camera();
    if (!at || Math.abs(at.x - width / 2) > width / 5 || Math.abs(at.y - height / 2) > height / 5) this.map.easeTo({ center, offset: this.free(), duration: 0 });
  }

  private nameThem(): void {
    const slots = this.layer.nameless(this.map.getZoom());
    if (slots.length === 0 || this.asking) return;
    this.asking = true;
    devices({ slots, limit: slots.length })
      .then((page) => {
        for (const d of page.devices) if (fleet.has(d.slot)) fleet.names.set(d.slot, named(d.id, 24));
        this.touch();
      })
      .catch(() => {})
      .finally(() => (this.asking = false));
  }

  private hover(x: number, y: number): void {
    const slot = this.layer.pick(x, y);
    const was = hovered.value;
    if (slot < 0) {
      if (was) {
        hovered.value = null;
        this.map.getCanvas().style.cursor = "";
        this.touch();
      }
      return;
    }
    if (was?.slot === slot) {
      hovered.value = { ...was, x, y };
      return;
    }
    this.map.getCanvas().style.cursor = "pointer";
    hovered.value = { slot, x, y, name: fleet.names.get(slot) ?? "" };
    this.touch();
    if (fleet.names.has(slot)) return;
    devices({ slots: [slot] }).then((page) => {
      const d = page.devices[0];
      if (!d || d.slot !== slot) return;
      if (fleet.has(slot)) fleet.names.set(slot, named(d.id, 24));
      if (hovered.value?.slot === slot) hovered.value = { ...hovered.value, name: named(d.id, 40) };
    }, () => {});
  }

  private async click(x: number, y: number): Promise<void> {
    const slot = this.layer.pick(x, y);
    if (slot < 0) return select("");
    try {
      const d = (await devices({ slots: [slot] })).devices[0];
      if (d) select(d.id);
    } catch {
      // The connection's state tells why.
    }
  }

  /** Has the address tell what is shown. */
  private tell(): void {
    if (!this.surveyed || route.value.page !== "map" || following.value) return;
    const c = this.map.getCenter().wrap();
    this.wroteAt = [c.lat.toFixed(5), c.lng.toFixed(5), this.map.getZoom().toFixed(2)].join(",");
    alter({ at: this.wroteAt });
  }

  private moved(): void {
    this.tell();
    clearTimeout(this.looking);
    this.looking = setTimeout(() => this.look(), 200) as unknown as number;
  }

  private look(): void {
    if (this.surveying >= 0) return; // when it is done, it looks here again
    const { x, y, world, width, height, zoom } = this.camera();
    const w = width / 2 / world;
    const h = height / 2 / world;
    const turn = (lon: number) => ((((lon + 180) % 360) + 360) % 360) - 180;
    const round = (n: number) => Math.round(n * 1e5) / 1e5;
    const bbox: Box =
      w >= 0.5
        ? [-180, latitudeAt(Math.min(1, y + h)), 180, latitudeAt(Math.max(0, y - h))]
        : [turn(longitudeAt(x - w)), latitudeAt(Math.min(1, y + h)), turn(longitudeAt(x + w)), latitudeAt(Math.max(0, y - h))];
    live.look({ bbox: bbox.map(round) as Box, zoom: Math.round(zoom * 100) / 100 });
  }

  private resized(): void {
    this.layer.resize(this.holder.clientWidth, this.holder.clientHeight);
    this.touch();
  }

  /** Something is to be drawn. */
  touch(): void {
    this.dirty = true;
    if (!this.raf && !document.hidden) this.raf = requestAnimationFrame((t) => this.step(t));
  }

  // Drawing takes at most a third of the time, whatever the machine: the rest is for the page.
  private step(t: number): void {
    this.raf = 0;
    if (document.hidden || this.holder.offsetParent === null) return;
    if (t - this.lastDraw >= Math.min(250, this.layer.cost * 3)) this.draw(performance.now());
    if (this.dirty) this.raf = requestAnimationFrame((t) => this.step(t));
  }

  private draw(now: number): void {
    if (this.holder.offsetParent === null) return;
    this.lastDraw = performance.now();
    const d = detail.value;
    const cam = this.camera();
    const xy = (lat: number, lon: number): [number, number] => [
      cam.width / 2 + (mercatorX(lon) - cam.x) * cam.world,
      cam.height / 2 + (mercatorY(lat) - cam.y) * cam.world,
    ];
    const chosen = d && d.id === selected.value ? d.slot : -1;
    const moving = this.layer.draw(cam, now, palette(dark.value), chosen, named(selected.value, 24), hovered.value?.slot ?? -1, chosen >= 0 ? d!.track : null, xy);
    if (live.lastSeq !== this.seqDrawn) {
      this.seqDrawn = live.lastSeq;
      live.drawn(live.lastSeq);
    }
    this.dirty = moving;
    if (moving) this.touch();
  }
}

const isSoftware = (canvas: HTMLCanvasElement): boolean => {
  const gl = canvas.getContext("webgl2");
  const info = gl?.getExtension("WEBGL_debug_renderer_info");
  return /swiftshader|llvmpipe|software|basic render/i.test(String(info ? gl!.getParameter(info.UNMASKED_RENDERER_WEBGL) : ""));
};
