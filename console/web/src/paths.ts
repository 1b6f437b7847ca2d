// Addresses of the API that a person may open.

export const api = {
  device: (id: string): string => "/api/v1/devices/" + encodeURIComponent(id),
  openapi: "/api/v1/openapi.json",
  pipeline: "/api/v1/pipeline",
  metrics: "/metrics",
};

export const licences = "/assets/licences.txt";
