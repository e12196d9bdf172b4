// Lengths people read: a round bar, and microns per screen pixel.

export interface Bar {
  label: string;
  px: number;
}

/** The longest round length (1, 2 or 5 times a power of ten) that fits into `most` screen pixels. */
export function scaleBar(micronsPerPx: number, most: number): Bar {
  const longest = micronsPerPx * most;
  const decade = 10 ** Math.floor(Math.log10(longest));
  const length = [5, 2, 1].map((n) => n * decade).find((n) => n <= longest) ?? decade;
  return { label: micronText(length), px: length / micronsPerPx };
}

export function micronText(microns: number): string {
  if (microns >= 1000) return `${trim(microns / 1000)} mm`;
  if (microns >= 1) return `${trim(microns)} µm`;
  return `${trim(microns * 1000)} nm`;
}

export function mppText(mpp: number): string {
  return `${mpp >= 10 ? mpp.toFixed(0) : mpp >= 1 ? mpp.toFixed(1) : mpp.toFixed(2)} µm/px`;
}

const trim = (value: number): string => String(Number(value.toPrecision(3)));
