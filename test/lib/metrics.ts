/** The metrics of a process of a cluster that was started with --metrics=0. */
import type { Role } from './cluster.ts'

export const metricsUrl = async (role: Role): Promise<string> => {
  const url = /"url":"([^"]+)"/.exec(await role.log())?.[1]
  if (url === undefined) throw new Error('it does not say where its metrics are')
  return url
}

export const metricsOf = async (role: Role): Promise<string> => (await fetch(await metricsUrl(role))).text()

/** NaN where there is no such series. */
export const valueOf = (text: string, series: string): number =>
  Number(
    text
      .split('\n')
      .find((line) => line.startsWith(`${series} `))
      ?.slice(series.length + 1),
  )
