export const text = { devices: "Devices" };
