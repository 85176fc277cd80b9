import { EdgeSerError } from "./errors.js";

const LOUDEST = 8; // as the C library has it

/** Return `samples`; throw unless they are a Float32Array of finite numbers of full scale 1.0. */
export function checked(samples) {
  if (!(samples instanceof Float32Array))
    throw new EdgeSerError("expected samples as a Float32Array, mono, full scale 1.0, such as an AudioBuffer's getChannelData(0)");
  for (let i = 0; i < samples.length; i++)
    if (!(Math.abs(samples[i]) <= LOUDEST)) // also true of NaN
      throw new EdgeSerError(`sample ${i} is ${samples[i]}; expected finite floats of full scale 1.0, none beyond ${LOUDEST} (divide int16 values by 32768)`);
  return samples;
}
