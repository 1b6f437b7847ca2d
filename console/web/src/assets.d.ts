declare module "asset:*" {
  const url: string;
  export default url;
}
declare module "*.css";
declare module "topojson-client/src/feature.js" {
  export default function feature(topology: object, object: object): object;
}
