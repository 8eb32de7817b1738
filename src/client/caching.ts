/** How much a client keeps to itself. Less than all of it is for who does not want it, and to see what it is worth. */
export interface Caching {
  /** False: nothing is cached, here or by the front end. A lease is held for as long as the operations that need it. */
  leases: boolean
  /** False: a change is durable, data included, before anybody is told that it was made. */
  writeBehind: boolean
}

export const fullCaching: Caching = { leases: true, writeBehind: true }
