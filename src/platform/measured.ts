/**
 * Measures the operations of a port (a file system, a disk, a database) from outside: the same object with some of its methods watched.
 * What a method gives is passed on as it is; a method that is not watched costs a call more.
 */
import type { OperationObserver } from '../domain/operation-times.ts'

type MethodName<T> = { [K in keyof T]: T[K] extends (...args: never[]) => Promise<unknown> ? K : never }[keyof T] &
  string

/** The watched methods, and how many bytes of payload one call moves, where that is of interest. */
export type Watched<T> = { [K in MethodName<T>]?: ((args: unknown[], result: unknown) => number) | 'time' }

type Method = (...args: unknown[]) => Promise<unknown>

const propertiesOf = (target: object): Map<string, PropertyDescriptor> => {
  const found = new Map<string, PropertyDescriptor>()
  for (
    let at: object | null = target;
    at !== null && at !== Object.prototype;
    at = Object.getPrototypeOf(at) as object
  ) {
    for (const [name, descriptor] of Object.entries(Object.getOwnPropertyDescriptors(at))) {
      if (!found.has(name)) found.set(name, descriptor)
    }
  }
  return found
}

export const measured = <T extends object>(
  target: T,
  watched: Watched<T>,
  observer: OperationObserver,
  nowMs: () => number,
): T => {
  const copy: Record<string, unknown> = {}
  for (const [name, descriptor] of propertiesOf(target)) {
    if (name === 'constructor') continue
    if (typeof descriptor.value !== 'function') {
      Object.defineProperty(copy, name, { get: () => (target as Record<string, unknown>)[name], enumerable: true })
      continue
    }
    const method = (descriptor.value as Method).bind(target)
    const bytesOf = watched[name as MethodName<T>]
    copy[name] =
      bytesOf === undefined
        ? method
        : (...args: unknown[]): Promise<unknown> => {
            const startMs = nowMs()
            const promise = method(...args)
            promise.then(
              (result) =>
                observer.observe(
                  name,
                  nowMs() - startMs,
                  bytesOf === 'time' ? undefined : { bytes: bytesOf(args, result) },
                ),
              () => observer.observe(name, nowMs() - startMs, { failed: true }),
            )
            return promise
          }
  }
  return copy as T
}
