/** The contract of a started role lives with the domain, because every part fulfils it; whoever starts processes finds it here. */
export type { Running } from '../domain/running.ts'
