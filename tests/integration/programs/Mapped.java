import java.io.RandomAccessFile;
import java.nio.ByteOrder;
import java.nio.MappedByteBuffer;
import java.nio.channels.FileChannel;

/** Threads that count in a mapped file, among null pointers, which this machine finds by SIGSEGV. */
class Mapped {
    int field = 1;

    static int look(Mapped at) {
        return at.field;
    }

    public static void main(String[] arguments) throws Exception {
        try (RandomAccessFile file = new RandomAccessFile(arguments[0], "rw")) {
            MappedByteBuffer device = file.getChannel().map(FileChannel.MapMode.READ_WRITE, 0, 8192);
            device.order(ByteOrder.LITTLE_ENDIAN);
            Thread[] threads = new Thread[3];
            int[] caught = new int[3];
            for (int id = 0; id < 3; id++) {
                int slot = id;
                threads[id] = new Thread(() -> {
                    Mapped[] some = {new Mapped(), null, new Mapped()};
                    for (int turn = 0; turn < 20000; turn++) {
                        try {
                            int at = 1024 * slot + 4 * (turn % 8);
                            device.putInt(at, device.getInt(at) + look(some[turn % 3]));
                        } catch (NullPointerException wanted) {
                            caught[slot]++;
                        }
                    }
                });
                threads[id].start();
            }
            long sum = 0;
            for (int id = 0; id < 3; id++) {
                threads[id].join();
                for (int at = 0; at < 32; at += 4)
                    sum += device.getInt(1024 * id + at);
                System.out.println(caught[id]);
            }
            System.out.println(sum);
        }
    }
}
