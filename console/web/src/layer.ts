// The vehicles on a canvas of their own above the map: the map itself is drawn again only when it moves. Without a GPU this is what
// keeps up (a layer within the map costs a whole map per frame there); with one it is cheap too.

import type { Fleet } from "./fleet";
import { sourceColour, type Palette } from "./palette";

/** What is seen: the centre in Mercator (world 0…1), how many pixels the world is wide, and the canvas in CSS pixels. */
export interface Camera { x: number; y: number; world: number; width: number; height: number; zoom: number }

const TURNS = 48; // headings that are drawn ahead of time
const REACH = 14; // pixels around the pointer within which a vehicle is meant
const MARGIN = 20;
const FEW = 80; // vehicles that may be larger than their number allows
const LABELS = 60; // at most; more would hide the map

export class VehicleLayer {
  /** Slots drawn last, and where. */
  drawn = 0;
  slots = new Int32Array(1024);
  sx = new Float32Array(1024);
  sy = new Float32Array(1024);
  /** ms that drawing takes, smoothed. */
  cost = 0;
  draws = 0;

  private readonly ctx: CanvasRenderingContext2D;
  private ratio = 1;
  private sprites: HTMLCanvasElement | null = null;
  private spriteKey = "";
  private spriteSize = 0;

  constructor(
    private readonly canvas: HTMLCanvasElement,
    private readonly fleet: Fleet,
  ) {
    this.ctx = canvas.getContext("2d")!;
  }

  resize(width: number, height: number): void {
    this.ratio = Math.min(2, devicePixelRatio || 1);
    this.canvas.width = Math.round(width * this.ratio);
    this.canvas.height = Math.round(height * this.ratio);
  }

  /** Draws everything; returns whether something is still on its way, so that it is worth drawing again soon. */
  draw(cam: Camera, now: number, p: Palette, chosen: number, name: string, hovered: number, track: { lat: number; lon: number }[] | null, xy: (lat: number, lon: number) => [number, number]): boolean {
    const start = performance.now();
    const { ctx, fleet } = this;
    ctx.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    ctx.clearRect(0, 0, cam.width, cam.height);
    const moving = this.place(cam, now);
    if (track && track.length > 1) this.trail(track, p, chosen, cam, xy);
    if (cam.zoom < 9 && this.drawn > FEW) this.dots(p, cam.zoom);
    else this.arrows(p, cam.zoom);
    if (chosen >= 0 && fleet.has(chosen)) this.ring(chosen, p, 2.5, 15);
    if (hovered >= 0 && hovered !== chosen && fleet.has(hovered)) this.ring(hovered, p, 1.5, 13);
    this.labels(p, chosen, name, cam.zoom >= 14.5 && this.drawn <= LABELS);
    this.draws++;
    this.cost = this.cost * 0.9 + (performance.now() - start) * 0.1;
    return moving;
  }

  /** Finds what is in view, and where on the canvas. */
  private place(cam: Camera, now: number): boolean {
    const { fleet } = this;
    if (this.slots.length < fleet.size) {
      const n = fleet.cell.length;
      this.slots = new Int32Array(n);
      this.sx = new Float32Array(n);
      this.sy = new Float32Array(n);
    }
    let n = 0;
    let moving = false;
    const east = cam.width / 2 + MARGIN;
    const south = cam.height / 2 + MARGIN;
    for (let slot = 0; slot < fleet.size; slot++) {
      if (fleet.cell[slot]! < 0) continue;
      const t = fleet.progress(slot, now);
      let dx = fleet.x[slot]! - cam.x;
      let dy = fleet.y[slot]! - cam.y;
      if (t < 1) {
        dx -= (fleet.x[slot]! - fleet.fx[slot]!) * (1 - t);
        dy -= (fleet.y[slot]! - fleet.fy[slot]!) * (1 - t);
      }
      if (dx > 0.5) dx -= 1;
      else if (dx < -0.5) dx += 1;
      dx *= cam.world;
      dy *= cam.world;
      if (dx > east || dx < -east || dy > south || dy < -south) continue;
      if (t < 1) moving = true;
      this.slots[n] = slot;
      this.sx[n] = cam.width / 2 + dx;
      this.sy[n] = cam.height / 2 + dy;
      n++;
    }
    this.drawn = n;
    return moving;
  }

  private dots(p: Palette, zoom: number): void {
    const { ctx, fleet } = this;
    const size = Math.max(2.4, 1 + zoom * 0.35);
    for (const stale of [true, false]) {
      ctx.globalAlpha = stale ? 0.35 : 0.9;
      for (let source = 0; source < 16; source++) {
        if (!fleet.perSource[source]) continue;
        ctx.fillStyle = sourceColour(p, source);
        for (let i = 0; i < this.drawn; i++) {
          const slot = this.slots[i]!;
          if (fleet.source(slot) === source && fleet.stale(slot) === stale) ctx.fillRect(this.sx[i]! - size / 2, this.sy[i]! - size / 2, size, size);
        }
      }
    }
    ctx.globalAlpha = 1;
  }

  private arrows(p: Palette, zoom: number): void {
    const { ctx, fleet } = this;
    const radius = Math.max(this.drawn > FEW ? 3 : 5.5, Math.min(9, 3 + (zoom - 9) * 0.95));
    this.prepare(p, radius);
    const size = this.spriteSize;
    const css = size / this.ratio;
    let alpha = 1;
    for (const stale of [true, false]) {
      ctx.globalAlpha = alpha = stale ? 0.38 : 1;
      for (let i = 0; i < this.drawn; i++) {
        const slot = this.slots[i]!;
        if (fleet.stale(slot) !== stale) continue;
        const turn = fleet.hasHeading(slot) && radius >= 4 ? 1 + (Math.round((fleet.heading[slot]! * TURNS) / 256) % TURNS) : 0;
        ctx.drawImage(this.sprites!, turn * size, fleet.source(slot) * size, size, size, this.sx[i]! - css / 2, this.sy[i]! - css / 2, css, css);
      }
    }
    if (alpha !== 1) ctx.globalAlpha = 1;
  }

  /** Draws every look a vehicle may have, once per size and theme. */
  private prepare(p: Palette, radius: number): void {
    radius = Math.round(radius * 2) / 2;
    const key = [radius, this.ratio, p.halo].join();
    if (key === this.spriteKey) return;
    this.spriteKey = key;
    const size = (this.spriteSize = Math.ceil((radius * 2.6 + 4) * this.ratio));
    const c = (this.sprites ??= document.createElement("canvas"));
    c.width = size * (TURNS + 1);
    c.height = size * 16;
    const g = c.getContext("2d")!;
    g.lineJoin = "round";
    for (let source = 0; source < 16; source++) {
      for (let turn = 0; turn <= TURNS; turn++) {
        g.setTransform(this.ratio, 0, 0, this.ratio, (turn + 0.5) * size, (source + 0.5) * size);
        g.beginPath();
        if (turn === 0) g.arc(0, 0, radius * 0.8, 0, 2 * Math.PI);
        else {
          g.rotate(((turn - 1) / TURNS) * 2 * Math.PI);
          g.moveTo(0, -radius * 1.25);
          g.lineTo(radius * 0.85, radius);
          g.lineTo(0, radius * 0.5);
          g.lineTo(-radius * 0.85, radius);
          g.closePath();
        }
        g.strokeStyle = p.halo;
        g.lineWidth = radius < 5 ? 1.2 : 2.4;
        g.stroke();
        g.fillStyle = sourceColour(p, source);
        g.fill();
      }
    }
  }

  private trail(track: { lat: number; lon: number }[], p: Palette, chosen: number, cam: Camera, xy: (lat: number, lon: number) => [number, number]): void {
    const { ctx, fleet } = this;
    const points = track.map((f) => xy(f.lat, f.lon));
    // It ends where the vehicle is drawn now, not where it will be at the end of the tick.
    const i = this.indexOf(chosen);
    if (i >= 0) {
      points.pop();
      points.push([this.sx[i]!, this.sy[i]!]);
    }
    ctx.strokeStyle = chosen >= 0 && fleet.has(chosen) ? sourceColour(p, fleet.source(chosen)) : p.ring;
    ctx.lineCap = ctx.lineJoin = "round";
    ctx.lineWidth = cam.zoom > 12 ? 4 : 2.5;
    for (let k = 1; k < points.length; k++) {
      ctx.globalAlpha = 0.1 + (0.6 * k) / points.length;
      ctx.beginPath();
      ctx.moveTo(...points[k - 1]!);
      ctx.lineTo(...points[k]!);
      ctx.stroke();
    }
    ctx.globalAlpha = 1;
  }

  private indexOf(slot: number): number {
    for (let i = 0; i < this.drawn; i++) if (this.slots[i] === slot) return i;
    return -1;
  }

  private ring(slot: number, p: Palette, width: number, radius: number): void {
    const i = this.indexOf(slot);
    if (i < 0) return;
    const { ctx } = this;
    ctx.beginPath();
    ctx.arc(this.sx[i]!, this.sy[i]!, radius, 0, 2 * Math.PI);
    ctx.strokeStyle = p.halo;
    ctx.lineWidth = width + 3;
    ctx.stroke();
    ctx.strokeStyle = p.ring;
    ctx.lineWidth = width;
    ctx.stroke();
  }

  /** Writes names, the chosen one's first; where one would stand on another it is left out. */
  private labels(p: Palette, chosen: number, name: string, all: boolean): void {
    const { ctx, fleet } = this;
    ctx.font = "600 11px system-ui, sans-serif";
    ctx.textAlign = "center";
    ctx.strokeStyle = p.halo;
    ctx.fillStyle = p.label;
    ctx.lineWidth = 3;
    ctx.lineJoin = "round";
    const taken: number[] = []; // centres
    const write = (i: number, name: string) => {
      const x = this.sx[i]!;
      const y = this.sy[i]! + 26;
      for (let k = 0; k < taken.length; k += 2) if (Math.abs(taken[k]! - x) < 62 && Math.abs(taken[k + 1]! - y) < 14) return;
      taken.push(x, y);
      ctx.strokeText(name, x, y);
      ctx.fillText(name, x, y);
    };
    const first = chosen < 0 ? -1 : this.indexOf(chosen);
    if (first >= 0) write(first, name);
    ctx.font = "500 11px system-ui, sans-serif";
    for (let i = 0; all && i < this.drawn; i++) {
      const name = fleet.names.get(this.slots[i]!);
      if (name && i !== first) write(i, name);
    }
  }

  /** The slots in view whose names should be known, if so few are in view that they are written on the map. */
  nameless(zoom: number): number[] {
    const out: number[] = [];
    if (zoom < 14.5 || this.drawn > LABELS) return out;
    for (let i = 0; i < this.drawn; i++) if (!this.fleet.names.has(this.slots[i]!)) out.push(this.slots[i]!);
    return out;
  }

  /** The vehicle at a place of the canvas, or -1. Looking at all in view takes microseconds: an index would cost more than it saves. */
  pick(x: number, y: number): number {
    let best = -1;
    let nearest = REACH * REACH;
    for (let i = 0; i < this.drawn; i++) {
      const dx = this.sx[i]! - x;
      const dy = this.sy[i]! - y;
      const d = dx * dx + dy * dy;
      if (d <= nearest && this.fleet.has(this.slots[i]!)) {
        nearest = d;
        best = this.slots[i]!;
      }
    }
    return best;
  }

  position(slot: number): { x: number; y: number } | null {
    const i = this.indexOf(slot);
    return i < 0 ? null : { x: this.sx[i]!, y: this.sy[i]! };
  }
}
