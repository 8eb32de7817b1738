/** `shoal completion`: what a shell needs to complete the command line, made from its definitions. */
import { Argument, Command } from 'commander'
import { outlineOf } from './command-outline.ts'
import { bashCompletion } from './completion-bash.ts'
import { fishCompletion } from './completion-fish.ts'
import { zshCompletion } from './completion-zsh.ts'

const scripts = { bash: bashCompletion, zsh: zshCompletion, fish: fishCompletion }

export const completionCommand = (): Command =>
  new Command('completion')
    .description('print the completion of the command line for a shell')
    .addArgument(new Argument('<shell>', 'which one').choices(Object.keys(scripts)))
    .addHelpText(
      'after',
      `
deploy/install.sh installs it for all three.

Examples:
  source <(shoal completion bash)
  shoal completion bash > ~/.local/share/bash-completion/completions/shoal
  shoal completion zsh > ~/.zfunc/_shoal                     where fpath has ~/.zfunc
  shoal completion fish > ~/.config/fish/completions/shoal.fish`,
    )
    .action((shell: keyof typeof scripts, _options: unknown, command: Command) => {
      if (command.parent === null) throw new Error('completion is a command of shoal')
      process.stdout.write(scripts[shell](outlineOf(command.parent)))
    })
