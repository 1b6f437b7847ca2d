// The colours that scripts draw with; those of the page itself are in app.css. Each pair is told apart in both themes, also by people who
// do not see red from green: they differ in lightness too.

export interface Palette {
  water: string; land: string; landNear: string; border: string;
  street: string; main: string; motorway: string;
  halo: string; ring: string; label: string; sources: string[];
}

export const light: Palette = {
  water: "#cfdde6", land: "#f2f1ec", landNear: "#e6e9e8", border: "#bcc6cc",
  street: "#ffffff", main: "#ffffff", motorway: "#ffe2a0",
  halo: "#ffffff", ring: "#0b1f2a", label: "#1b2b35",
  sources: ["#1d5fd1", "#c2410c", "#6d28d9", "#047857", "#be185d", "#854d0e", "#0e7490", "#475569"],
};

export const dark: Palette = {
  water: "#0a1218", land: "#121b22", landNear: "#10181e", border: "#2a3843",
  street: "#1f2b34", main: "#2c3b46", motorway: "#4d4630",
  halo: "#0a1218", ring: "#ffffff", label: "#dbe6ee",
  sources: ["#62b0ff", "#ffa94d", "#c4a7ff", "#5fdba0", "#ff8fc0", "#e9c46a", "#67d3e6", "#a7b6c4"],
};

export const palette = (isDark: boolean): Palette => (isDark ? dark : light);
export const sourceColour = (p: Palette, source: number): string => p.sources[source % p.sources.length]!;
