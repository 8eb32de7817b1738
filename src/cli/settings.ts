/**
 * The settings of the roles: what can be given by flag, environment and configuration file, and why each default is what it is.
 *
 * One precedence: a flag, then the environment variable SHOAL_ROLE_OPTION, then the configuration file, then the default. A value
 * goes through the same check wherever it comes from.
 *
 * Invariant: every option of a role that takes a value and is in its --help is a setting, except mount's -o, which belongs to one
 * mount and not to a machine.
 */
import { Option, type Command } from 'commander'
import { UsageError } from '../domain/errors.ts'
import type { ConfigFile } from './config-file.ts'

export interface Setting {
  /** Without dashes: "repair-delay". */
  name: string
  environment: string
  option: Option
  /** As a person would write it; undefined: it has to be given, or what it does without is in `why`. */
  default: string | undefined
  unit: string
  why: string
}

type Reason = Pick<Setting, 'default' | 'unit' | 'why'>

const address = 'HOST:PORT'
const duration = 'duration: 500ms, 10s, 5m'

const shared: Readonly<Record<string, Reason>> = {
  'log-level': {
    default: 'info',
    unit: 'error, warn, info, debug or silent',
    why: 'info says what changed and nothing every second, so a year of it stays small',
  },
  metrics: {
    default: undefined,
    unit: '[HOST:]PORT',
    why: 'without it there are none: a port is not opened before somebody wants it. A port alone is on loopback',
  },
}

const reasons: Readonly<Record<string, Readonly<Record<string, Reason>>>> = {
  master: {
    ...shared,
    data: {
      default: undefined,
      unit: 'directory',
      why: 'has to be given: it holds all names, so nobody should have to guess where it is',
    },
    listen: {
      default: '127.0.0.1:9320',
      unit: address,
      why: 'loopback, since nothing authenticates peers yet; the network is a decision',
    },
    copies: {
      default: '3',
      unit: 'copies',
      why: 'two may fail, or one may fail while another is being copied; each costs its size on disk',
    },
    web: {
      default: '127.0.0.1:9321',
      unit: `${address} or off`,
      why: 'loopback, since the page shows names of files to whoever reaches it; without a word it is left out when the port is taken',
    },
    'min-copies': {
      default: '2',
      unit: 'copies',
      why: 'fsync must survive the loss of any one machine; with --copies 1 it is 1',
    },
    placement: {
      default: 'weighted',
      unit: 'weighted, random or rendezvous',
      why: 'fills servers in proportion to their free space, so that none is full first',
    },
    'repair-delay': {
      default: '10s',
      unit: duration,
      why: 'longer than a restart of a chunk server, short against the time until a second disk fails',
    },
    'session-lease': {
      default: '10s',
      unit: duration,
      why: 'how long others wait for what a dead mount held; much shorter and a loaded machine loses its mounts',
    },
  },
  chunkserver: {
    ...shared,
    data: {
      default: undefined,
      unit: 'directory',
      why: 'has to be given: one directory on each disk, so that a disk that fails takes one server along',
    },
    master: { default: undefined, unit: address, why: 'has to be given: where the master listens' },
    listen: {
      default: '127.0.0.1:0',
      unit: address,
      why: 'loopback and any free port; mounts on other machines need an address that they can reach',
    },
    rack: {
      default: undefined,
      unit: 'name',
      why: 'without one, only machines are told apart: what fails together is known to nobody but you',
    },
    capacity: {
      default: undefined,
      unit: 'size: 500GiB',
      why: 'without it all of the disk, which is right where the disk has no other use',
    },
  },
  mount: {
    ...shared,
    'log-file': {
      default: undefined,
      unit: 'file',
      why: 'without it /var/log/shoal/mount-DIR.log; with --foreground the log goes to standard error',
    },
    driver: {
      default: 'kernel',
      unit: 'kernel or fuse-native',
      why: 'knows the callers, holds locks across machines and keeps the caches of the kernel right; fuse-native cannot',
    },
    'connect-timeout': {
      default: '10s',
      unit: duration,
      why: 'long enough for a master that is being started, short enough to notice a wrong address',
    },
  },
}

const environmentName = (role: string, option: string): string =>
  `SHOAL_${role}_${option}`.toUpperCase().replaceAll('-', '_')

/** The settings of a role. */
export const settingsOf = (command: Command): Setting[] =>
  command.options
    .filter((option) => option.required && !option.hidden && option.attributeName() !== 'options')
    .map((option) => {
      const name = (option.long ?? '').replace(/^--/, '')
      const reason = reasons[command.name()]?.[name]
      if (reason === undefined)
        throw new Error(`the option --${name} of ${command.name()} has no reason in settings.ts`)
      return { name, option, environment: environmentName(command.name(), name), ...reason }
    })

/** Shows in its --help which variable gives each setting of a role. */
export const withEnvironment = (command: Command): Command => {
  for (const { option, environment } of settingsOf(command)) option.env(environment)
  return command
}

/** What each section of the configuration file may have. */
export const knownSettings = (roles: readonly Command[]): Map<string, Set<string>> =>
  new Map(roles.map((role) => [role.name(), new Set(settingsOf(role).map(({ name }) => name))]))

/**
 * Gives a role what the environment and the configuration file have for it, before its command line is read; a flag then goes
 * before it. UsageError for a bad value.
 */
export const applySettings = (command: Command, file: ConfigFile, environment: NodeJS.ProcessEnv): void => {
  for (const { name, option, environment: variable } of settingsOf(command)) {
    const fromFile = file.get(command.name())?.get(name)
    const given: [string | undefined, string, string][] = [
      [fromFile?.value, `${fromFile?.where}: ${name}`, 'config'],
      [environment[variable], variable, 'env'],
    ]
    for (const [text, what, source] of given) {
      if (text === undefined) continue
      try {
        const value: unknown = option.parseArg === undefined ? text : option.parseArg(text, undefined)
        command.setOptionValueWithSource(option.attributeName(), value, source)
      } catch (caught) {
        throw new UsageError(`${what} = ${text}: ${(caught as Error).message}`)
      }
    }
  }
}

/** `--config FILE`, for every command. */
export const configOption = (): Option =>
  new Option('--config <file>', 'configuration file (default: /etc/shoal/shoal.conf, if it is there)').env(
    'SHOAL_CONFIG',
  )
